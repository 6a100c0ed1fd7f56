"""Fine-tuning at services elsewhere: each job paid once, whatever interrupts it."""
