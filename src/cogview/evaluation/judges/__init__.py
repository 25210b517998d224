"""Networks that judge generated images, and their training; no generator is ever trained against them."""
