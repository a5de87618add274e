"""What our code relies on of a Kubernetes API server, as tests that the double and a real server must both pass."""
