"""Android phones: models run there by TensorFlow Lite's ``benchmark_model``, over adb."""
