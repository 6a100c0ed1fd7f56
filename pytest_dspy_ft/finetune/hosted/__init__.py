"""Fine-tuning over the OpenAI API: each job paid once, whatever interrupts it."""
