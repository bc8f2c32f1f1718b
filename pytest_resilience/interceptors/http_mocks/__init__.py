"""HTTP that a test mocks: faults go in just above responses, requests-mock, respx, pytest-httpx."""
