"""One door for LM calls: which LM a name means, what a call costs, who may answer it, what its failure means."""
