"""A recommender made with Keras, exported for `millirec pack`: python examples/keras_model.py FOLDER.

Needs `keras` and one of its backends: KERAS_BACKEND=torch, or tensorflow.
"""

import sys
from pathlib import Path

import keras
import numpy as np
from keras import layers, ops

N_ITEMS, WIDTH, LENGTH = 60, 16, 20


class Mean(layers.Layer):
    """The mean of the rows that hold an event: (B, L, d) and (B,) to (B, d)."""

    def call(self, x, lengths):
        """Padding has no weight."""
        places = ops.arange(ops.shape(x)[1], dtype="int32")
        real = ops.cast(ops.expand_dims(places, 0) < ops.expand_dims(lengths, 1), "float32")
        weights = real / ops.maximum(ops.sum(real, axis=1, keepdims=True), 1.0)
        return ops.sum(x * ops.expand_dims(weights, 2), axis=1)


def encoder() -> tuple[keras.Model, layers.Embedding]:
    """Histories to user vectors, and the table of items."""
    items = keras.Input((None,), dtype="int32", name="items")
    lengths = keras.Input((), dtype="int32", name="lengths")
    table = layers.Embedding(N_ITEMS + 1, WIDTH, name="table")
    x = layers.Conv1D(WIDTH, 3, padding="causal", activation="relu")(table(items))
    vectors = layers.Dense(WIDTH, name="user_vectors")(Mean()(x, lengths))
    return keras.Model([items, lengths], vectors), table


def walks(n: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users who walk a circle of items: histories (n, LENGTH), padded on the right, lengths (n,), next items (n,)."""
    rng = np.random.default_rng(0)
    lengths, starts = rng.integers(1, LENGTH + 1, n), rng.integers(0, N_ITEMS, n)
    rows = (starts[:, None] + np.arange(LENGTH + 1)) % N_ITEMS + 1
    histories = np.where(np.arange(LENGTH) < lengths[:, None], rows[:, :LENGTH], 0)
    return histories.astype("int32"), lengths.astype("int32"), rows[np.arange(n), lengths].astype("int32")


def main(folder: Path) -> None:
    """Train for a moment, then write encoder.onnx, ids.txt and items.npy."""
    keras.utils.set_random_seed(0)
    model, table = encoder()
    scores = ops.matmul(model.output, ops.transpose(table.embeddings))
    training = keras.Model(model.inputs, scores)
    training.compile(keras.optimizers.Adam(0.01), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    histories, lengths, following = walks(2_000)
    training.fit([histories, lengths], following, batch_size=64, epochs=3, verbose=0)
    folder.mkdir(parents=True, exist_ok=True)
    model([histories[:2], lengths[:2]])  # the exporter wants a model that has been called
    model.export(str(folder / "encoder.onnx"), format="onnx", verbose=False)
    (folder / "ids.txt").write_text("\n".join(f"item-{row}" for row in range(1, N_ITEMS + 1)))
    np.save(folder / "items.npy", np.asarray(ops.convert_to_numpy(table.embeddings), np.float32))


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "keras-model"))
