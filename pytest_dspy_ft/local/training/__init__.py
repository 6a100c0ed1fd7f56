"""Training LoRAs: rows, batches, the loop, the loss and its memory."""
