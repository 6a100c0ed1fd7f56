"""OpenAI's API for fine-tuning, at OpenAI, on Azure, and at compatible servers: adapters to the port."""
