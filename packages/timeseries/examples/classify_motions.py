"""Tell standing, walking, running and badminton apart by a smart watch of which half of the values are missing.

    python packages/timeseries/examples/classify_motions.py [--missing 0.5] [--model lnsde] [--epochs 20]

BasicMotions: 80 recordings of 6 channels (accelerometer and gyroscope) and 100 times, which comes with aeon, the extra
``degauss-timeseries[aeon]``. Some ten seconds on one CPU core; draws motions.png, who was taken for whom.
"""

from __future__ import annotations

import argparse

import numpy as np
from aeon.datasets import load_classification

from degauss.timeseries.classification import NeuralSDEClassifier, stratified
from degauss.timeseries.confusion import classification_scores, confusion_plot
from degauss.timeseries.irregular import drop, irregular


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--missing", type=float, default=0.5)
    parser.add_argument("--model", default="lnsde")
    parser.add_argument("--epochs", type=int, default=20)
    arguments = parser.parse_args()

    recordings, motions, *_ = load_classification("BasicMotions")
    gappy = drop(irregular(recordings), arguments.missing).values.transpose(0, 2, 1)
    train, valid, test = stratified(motions, (0.7, 0.15, 0.15))

    classifier = NeuralSDEClassifier(model=arguments.model, epochs=arguments.epochs)
    classifier.fit(gappy[train], motions[train], validation=(gappy[valid], motions[valid]))

    scores = classification_scores(motions[test], classifier.predict_proba(gappy[test]), classifier.classes_)
    title = f"{arguments.model}, {arguments.missing:.0%} missing: {scores['accuracy']:.0%} of {len(test)} right"
    confusion_plot("motions.png", np.asarray(scores["confusion"]), scores["classes"], title=title)
    print(title)


if __name__ == "__main__":
    main()
