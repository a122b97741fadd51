"""The model executor: models, the stages that run them, the engine beneath, and lent workers."""
