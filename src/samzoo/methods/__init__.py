"""The zoo: importing this package makes every method known by its class name."""
