"""Fine-tuning. Needs the extra ``train``: torch, transformers, datasets, accelerate."""
