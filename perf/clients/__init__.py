"""Other people's clients, run as their users do. Each lives in a virtual environment of its own."""
