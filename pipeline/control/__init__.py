"""Looking at a pipeline and steering it from any process and host: status, wait, teardown."""
