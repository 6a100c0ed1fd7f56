"""What was gated is what ships: built stages outside of the session that built them."""
