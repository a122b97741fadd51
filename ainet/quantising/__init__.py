"""Models in another format: made by llama.cpp, recommended by what a device can do, and compared with their source."""
