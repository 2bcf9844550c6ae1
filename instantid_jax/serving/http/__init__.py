"""The HTTP service: OpenAI's images API, and four routes of AUTOMATIC1111's, on the engine."""
