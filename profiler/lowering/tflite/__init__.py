"""Graph -> TFLite model, built directly over the format's schema; images lie channels last, as LiteRT wants them."""
