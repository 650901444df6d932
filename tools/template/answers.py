"""Right and wrong answers to the exercises of notebook NN. WRONG: (answer, words that the checker must say)."""

import numpy as np

RIGHT = {
    "NN.mean_loss": [
        lambda means, counts: (means * counts).sum() / counts.sum(),
        lambda means, counts: np.average(means.numpy(), weights=counts.numpy()),
    ],
}
WRONG = {
    "NN.mean_loss": [
        (lambda means, counts: means.mean(), "averages the batch means"),
        (lambda means, counts: (means * counts).sum(), "this is the sum"),
        (lambda means, counts: (means * counts).mean(), "divides by the batches"),
    ],
}
