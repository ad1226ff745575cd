"""What is trained, and the frozen foundation models."""
