"""The Windlass runner: process 1 of every runner pod."""
