"""A layer that can be trained: compile, fit, evaluate, predict, save.

``fit`` is a loop over :meth:`Model.train_step`, and that is four lines: run the layers, the loss
and its gradient, the closures backwards, the optimizer.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from gpuconv.backends.base import Array
from gpuconv.backends.selection import resolve_device
from gpuconv.callbacks.history import History
from gpuconv.data import make_batches
from gpuconv.errors import InvalidArgumentError, NotBuiltError, one_of, shown, suggestion
from gpuconv.geometry import as_int
from gpuconv.layers.base import Layer
from gpuconv.layers.symbolic import SymbolicTensor
from gpuconv.models.steps import Steps
from gpuconv.random import SeedStream


class Model(Steps):
    """A layer with a loss, metrics and an optimizer: the base of Sequential and of graphs.

    ``Model(inputs, outputs)`` makes the model of a graph, see ``gpuconv.models.Functional``.

    Args:
        backend: device to compute on (``"cpu"``, ``"cuda"``), or an engine (``"cuda:numba"``) that
            then computes everything; None: what is in force when the model is built.
        name, trainable: as for every layer.

    Attributes:
        stop_training: set it to True to end ``fit`` after the current batch.
        resume_at: set by a callback when training begins: ``(epoch, batch)`` where ``fit`` goes
            on, in place of its ``initial_epoch``.
        optimizer, objectives: set by :meth:`compile`.
        not_finite: where numbers stopped being finite; see ``callbacks.TerminateOnNaN``.

    Raises:
        BackendUnavailableError: the backend that was named cannot run here.
    """

    min_rank = 2
    layers: list[Layer]
    plan: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Model and (args or "inputs" in kwargs or "outputs" in kwargs):
            from gpuconv.models.functional import Functional

            cls = Functional
        return super().__new__(cls, *args, **kwargs)

    def __init__(self, *graph: Any, backend: str | None = None, **kwargs: Any) -> None:
        if graph:  # of Model itself; a graph never comes here
            raise InvalidArgumentError(
                f"{type(self).__name__} is not made of inputs and outputs; gpuconv.Model is. "
                f"Received: {shown(graph[0])}"
            )
        super().__init__(**kwargs)
        if backend is not None:
            self.backend = resolve_device(backend)[0]
            self.engine = backend if ":" in backend else None
        self.optimizer = None
        self.objectives = None
        self.stop_training = False
        self.resume_at: tuple[int, int] | None = None
        self.shuffle_stream: SeedStream | None = None
        self.watches_loss = False  # set by TerminateOnNaN
        self.not_finite: str | None = None

    @property
    def inputs(self) -> list[SymbolicTensor]:
        """The symbolic tensors that the model begins with, for ``gpuconv.Model``."""
        raise TypeError(f"{type(self).__name__} must define inputs")

    @property
    def outputs(self) -> list[SymbolicTensor]:
        """The symbolic tensors that the model ends with, for ``gpuconv.Model``."""
        raise TypeError(f"{type(self).__name__} must define outputs")

    @property
    def input(self) -> Any:
        """The model's symbolic input, or a list of them."""
        return self.inputs if self.several_inputs else self.inputs[0]

    @property
    def output(self) -> Any:
        """The model's symbolic output, or a list of them."""
        return self.outputs if len(self.outputs) > 1 else self.outputs[0]

    # --- the layers -------------------------------------------------------------------

    def get_layer(self, name: str | None = None, index: int | None = None) -> Layer:
        """Return a layer by its name or its position.

        Raises:
            InvalidArgumentError: neither or both given, or there is no such layer.
        """
        if (name is None) == (index is None):
            raise InvalidArgumentError(
                f"give either the name or the index of a layer. "
                f"Received: name={shown(name)}, index={shown(index)}"
            )
        if index is not None:
            index = as_int(index, "index")
            if not -len(self.layers) <= index < len(self.layers):
                raise InvalidArgumentError(
                    f"{self.name} has {len(self.layers)} layers. Received: index {index}"
                )
            return self.layers[index]
        for layer in self.layers:
            if isinstance(name, str) and layer.name == name:
                return layer
        names = [layer.name for layer in self.layers]
        raise InvalidArgumentError(
            f"{self.name} has the layers {', '.join(names)}.{suggestion(str(name), names)} "
            f"Received: {shown(name)}"
        )

    @property
    def output_shape(self) -> Any:
        """Shape of the output, the batch None.

        Raises:
            NotBuiltError: no input shape is known yet.
        """
        if not self.built:
            raise NotBuiltError(f"{self.name} has no output shape yet: build it or call it first")
        return self.compute_output_shape(self.built_shape)

    def rows(self) -> list[tuple[Layer, Any, list[str]]]:
        """Each layer with the shape of its output, and the layers before it if it has several.

        In the order in which they are run; a layer that is called twice has two rows.
        """
        raise TypeError(f"{type(self).__name__} must define rows")

    # --- many steps -------------------------------------------------------------------

    def fit(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        epochs: int = 1,
        verbose: Any = "auto",
        callbacks: Any = None,
        validation_split: float = 0.0,
        validation_data: Any = None,
        shuffle: bool = True,
        class_weight: dict[int, float] | None = None,
        sample_weight: Any = None,
        initial_epoch: int = 0,
        steps_per_epoch: int | None = None,
        validation_steps: int | None = None,
        validation_batch_size: int | None = None,
        validation_freq: int = 1,
    ) -> History:
        """Train for a number of epochs, as Keras's ``fit``.

        Args:
            x: inputs (N, ...) of any real dtype: arrays, Tensors, memory maps; for several inputs
                a list of them or a dict by name (``input_names``); or an iterable of batches
                ``(x, y)`` or ``(x, y, sample_weight)``. Data stays in its dtype until a batch is
                taken; no copy of the data set is made.
            y: targets, with arrays; for several outputs a list or a dict by name
                (``output_names``). An output without loss and metrics needs none.
            batch_size: default 32. The last batch of an epoch may be shorter.
            epochs: number of the epoch after the last; with ``initial_epoch`` the difference
                is run.
            verbose: 0 silent, 1 a progress bar, 2 a line an epoch; ``"auto"`` is 1 on a
                terminal and 2 elsewhere.
            callbacks: one or several of ``gpuconv.callbacks``.
            validation_split: fraction of the LAST samples that is held out before shuffling.
            validation_data: ``(x, y)`` or ``(x, y, sample_weight)``, or an iterable of batches.
            shuffle: a new order each epoch, reproducible by ``gpuconv.set_seed``.
            class_weight: class number -> weight of its samples' losses; for one output only.
            sample_weight: one number a sample; for several outputs also a list or a dict of such.
            initial_epoch: where to count from, to continue a run.
            steps_per_epoch: batches an epoch, where not all. With ``shuffle`` those are drawn
                anew each epoch; without, an epoch goes on where the last one stopped.
            validation_steps: batches of a validation, where not all.
            validation_batch_size: default ``batch_size``.
            validation_freq: validate after every so many epochs.

        Returns:
            History, with ``.history``, ``.epoch`` and ``.params``. The loss of an epoch is the
            mean over its samples; validation keys begin with ``val_``.

        Raises:
            NotBuiltError: the model is not compiled.
            ShapeError, DTypeError, InvalidArgumentError: before the first step: inputs,
                targets and options that do not fit together, labels out of range, NaN in the
                data.
        """
        from gpuconv.models.fitting import Fit

        self.require_compiled()
        return Fit(
            self,
            x,
            y,
            batch_size=32 if batch_size is None else batch_size,
            epochs=epochs,
            verbose=verbose,
            callbacks=callbacks,
            validation_split=validation_split,
            validation_data=validation_data,
            shuffle=shuffle,
            class_weight=class_weight,
            sample_weight=sample_weight,
            initial_epoch=initial_epoch,
            steps_per_epoch=steps_per_epoch,
            validation_steps=validation_steps,
            validation_batch_size=validation_batch_size,
            validation_freq=validation_freq,
        ).run()

    def evaluate(
        self,
        x: Any,
        y: Any = None,
        batch_size: int | None = None,
        verbose: Any = "auto",
        sample_weight: Any = None,
        steps: int | None = None,
        callbacks: Any = None,
        return_dict: bool = False,
    ) -> Any:
        """Return loss and metrics over a data set, each a mean over the samples.

        Args:
            x, y, batch_size, sample_weight, verbose, callbacks: as in :meth:`fit`.
            steps: batches to look at, where not all.
            return_dict: names and numbers instead of a list.

        Returns:
            The loss alone without metrics, else ``[loss, metric, ...]``; for several outputs
            ``[loss, loss of each, metrics in the order of their names]``.

        Raises:
            NotBuiltError: the model is not compiled.
            ShapeError, DTypeError, InvalidArgumentError: as :meth:`fit`.
        """
        from gpuconv.models.fitting import evaluate

        self.require_compiled()
        size = 32 if batch_size is None else batch_size
        batches = make_batches(x, y, sample_weight, size, steps, form=self.batch_form)
        return evaluate(self, batches, verbose, callbacks).result(return_dict)

    def predict(
        self,
        x: Any,
        batch_size: int | None = None,
        verbose: Any = "auto",
        steps: int | None = None,
        callbacks: Any = None,
    ) -> Any:
        """Return the outputs for many samples as one NumPy array; a list for several outputs.

        Args:
            x: inputs, or an iterable of batches (targets in it are ignored).
            batch_size, verbose, steps, callbacks: as in :meth:`evaluate`.

        Raises:
            ShapeError, DTypeError, InvalidArgumentError: the inputs do not fit the model.
        """
        from gpuconv.models.fitting import predict

        size = 32 if batch_size is None else batch_size
        batches = make_batches(x, None, None, size, steps, targets=False, form=self.batch_form)
        return predict(self, batches, verbose, callbacks)

    def predict_on_batch(self, x: Any) -> Any:
        """Return the outputs for one batch as a NumPy array; a list for several outputs."""
        from gpuconv.models.fitting import on_host

        form = self.batch_form
        (batch,) = make_batches(x, None, None, 2**62, targets=False, form=form).epoch()
        return on_host(self.infer_batch(batch[0]))

    def infer_batch(self, x: Any) -> Array:
        """Return the outputs for one batch, on the device."""
        with self.computing():
            return self.infer(self.prepare(x))

    def optimize_for_inference(self) -> Model:
        """Return a model that predicts the same, but for rounding, in less time.

        Batch normalisations become a part of the convolution or dense layer before them, ReLU and
        other activations are applied as these store, an Add behind a convolution, of two inputs
        of one shape, too, and dropout is left out. The weights are
        copied: this model is not changed, and can be trained on.

        On the CPU the new model keeps what the kernels make of the weights of its convolutions and
        dense layers, from the first prediction on: as much memory again as these take (with
        Winograd's method 1.8 times as much, for small layers 4 times). So that these do not change
        unnoticed, their arrays can only be read: writing into ``layer.kernel.value`` raises
        NumPy's ValueError; ``assign``, ``set_weights`` and ``load_weights`` work as always. Copies
        and files hold the weights alone; a model that was loaded keeps nothing until it is
        optimised.

        Raises:
            NotBuiltError: the model has no weights yet.
        """
        from gpuconv.models.inference import optimize_for_inference

        return optimize_for_inference(self)

    # --- looking and keeping ----------------------------------------------------------

    def profile(self, x: Any, y: Any = None, repeats: int = 5) -> Any:
        """Time each layer on a batch, forward and backward; print the result to see a table.

        Args:
            x: a batch of inputs.
            y: its targets, for the time of the loss; None leaves that out.
            repeats: how often; the least time of each counts.

        Returns:
            A ``gpuconv.profiling.Profile``, whose ``rows`` hold engine, milliseconds, GFLOP/s,
            memory and parameters of each layer.

        Raises:
            ShapeError, DTypeError, InvalidArgumentError: the inputs do not fit the model.
        """
        from gpuconv.profiling import profile

        return profile(self, x, y, repeats)

    def summary(
        self,
        line_length: int | None = None,
        style: str = "table",
        print_fn: Any = None,
        expand_nested: bool = False,
        show_trainable: bool = False,
    ) -> None:
        """Print layers, output shapes and numbers of parameters.

        Args:
            line_length: width in characters; None is the terminal's.
            style: ``"table"``, or ``"classic"`` for Keras 2's lines.
            print_fn: called with the text instead of printing it.
            expand_nested: show the layers of models inside too, below the line of the first call
                of each; their numbers are a part of their model's.
            show_trainable: a column with ``Y`` or ``N``, ``-`` for layers without weights.

        Raises:
            NotBuiltError: the model has not seen an input shape.
            InvalidArgumentError: an unknown style, or a length below 1.
        """
        from gpuconv.models.summary import summary_text

        length = None if line_length is None else as_int(line_length, "line_length", 1)
        chosen = one_of(style, ("table", "classic"), "style")
        text = summary_text(self, length, chosen, bool(expand_nested), bool(show_trainable))
        (print_fn or print)(text)

    def save(
        self,
        path: str | os.PathLike[str],
        overwrite: bool = True,
        progress: Mapping[str, Any] | None = None,
        include_optimizer: bool = True,
    ) -> None:
        """Write configuration, weights and optimizer state as one safetensors file.

        The file is complete or not there at all: it is written aside and moved into place.

        Args:
            path: file to write, by custom ``*.safetensors``.
            overwrite: False refuses to replace a file.
            progress: plain data and NumPy arrays to keep with it, such as the epoch;
                :meth:`restore` returns it.
            include_optimizer: False leaves out how the model is trained: optimizer and its
                state, loss, metrics.

        Raises:
            NotBuiltError: the model has no weights yet.
            FileExistsError: the file is there and ``overwrite`` is False.
        """
        from gpuconv.models.saving import save_model

        save_model(self, path, overwrite, progress, include_optimizer)

    def restore(self, path: str | os.PathLike[str]) -> dict[str, Any]:
        """Take weights, optimizer state and random streams from a file that :meth:`save` wrote.

        Returns:
            The progress that was saved with it, or an empty dict.

        Raises:
            FileNotFoundError: there is no such file.
            FileFormatError: damaged, foreign, or of another model; this one is then unchanged.
        """
        from gpuconv.models.saving import restore_model

        return restore_model(self, path)
