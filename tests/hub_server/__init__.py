"""A Hugging Face Hub on loopback, as the real one answers: for the tests, and for trying by hand (scripts/hub)."""
