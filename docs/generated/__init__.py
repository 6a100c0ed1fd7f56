"""What the site holds that is made from the code when it is built."""
