"""What a video model is asked: clips drawn here (`drawn`), and benchmarks in their makers' layouts."""
