"""Video-language models: their vision towers."""
