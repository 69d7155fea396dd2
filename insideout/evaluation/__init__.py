"""Score classifiers and segmenters on labelled data, with intervals over shots."""
