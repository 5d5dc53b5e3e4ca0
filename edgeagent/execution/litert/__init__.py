"""The LiteRT engine: .tflite models, and the delegates that run them on other chips. Imported in workers only."""
