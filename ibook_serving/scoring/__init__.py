"""From a decoded order to a prediction: models, lanes, features, batches, shadows, reasons."""
