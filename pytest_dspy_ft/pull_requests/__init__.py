"""Reports as comments on pull requests: at GitHub and GitLab, one comment that is kept up to date."""
