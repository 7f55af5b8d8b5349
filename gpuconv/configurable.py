"""Objects that are described by their constructor's arguments, and finding them by name.

Initializers, regularizers, losses, metrics, optimizers and schedules all follow it: the
configuration of an object is the dict of its constructor's arguments, each of which it keeps
as an attribute of the same name.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, cast

from gpuconv.errors import InvalidArgumentError, UnknownArgumentError, suggestion

T = TypeVar("T")
C = TypeVar("C", bound="Configurable")

_OTHER_WORDS: dict[str, tuple[str, ...]] = {
    "lr": ("learning_rate",),
    "beta1": ("beta_1",),
    "beta2": ("beta_2",),
    "betas": ("beta_1",),
    "eps": ("epsilon",),
    "alpha": ("negative_slope", "rho"),
    "clip_norm": ("clipnorm",),
    "clip_value": ("clipvalue",),
    "std": ("stddev",),
    "low": ("minval",),
    "high": ("maxval",),
    "out_channels": ("filters",),
    "out_features": ("units",),
    "p": ("rate",),
    "dilation": ("dilation_rate",),
    "bias": ("use_bias",),
}
"""Words of other libraries that are not spelled like ours."""


def arguments_of(cls: type) -> tuple[str, ...]:
    """Names of the constructor's arguments, in order.

    A ``**`` argument stands for the arguments of the next constructor among the base classes.
    """
    found = _arguments.get(cls)
    if found is None:
        found = _arguments[cls] = _read_arguments(cls)
    return found


_arguments: dict[Any, tuple[str, ...]] = {}  # reading a signature takes longer than a small update


def _read_arguments(cls: type) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for owner in cls.__mro__:
        constructor = vars(owner).get("__init__")
        if constructor is None:
            continue
        parameters = list(inspect.signature(constructor).parameters.values())[1:]
        named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
        names.update({p.name: None for p in parameters if p.kind in named})
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in parameters):
            break
    return tuple(names)


def refuse_unknown(cls: type, given: Mapping[str, Any]) -> None:
    """Check the names of keyword arguments.

    Raises:
        UnknownArgumentError: the constructor of ``cls`` has no such argument.
    """
    known = arguments_of(cls)
    for word in given:
        if word in known:
            continue
        others = [other for other in _OTHER_WORDS.get(word, ()) if other in known]
        hint = f" Did you mean {others[0]!r}?" if others else suggestion(word, known)
        raise UnknownArgumentError(
            f"{cls.__name__} has no argument {word!r}; it has {', '.join(known) or 'none'}.{hint} "
            f"Received: {word}={given[word]!r}"
        )


class Configurable:
    """Base of objects whose configuration is their constructor's arguments."""

    def __new__(cls: type[C], *args: Any, **kwargs: Any) -> C:
        refuse_unknown(cls, kwargs)
        return super().__new__(cls)

    def get_config(self) -> dict[str, Any]:
        """Return the constructor's arguments as numbers, strings, booleans, lists and None."""
        return {name: getattr(self, name) for name in arguments_of(type(self))}

    @classmethod
    def from_config(cls: type[C], config: Mapping[str, Any]) -> C:
        """Build an equal object from :meth:`get_config`'s dict.

        Raises:
            UnknownArgumentError: the dict holds an argument that does not exist.
        """
        return cls(**config)

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={value!r}" for name, value in self.get_config().items())
        return f"{type(self).__name__}({words})"


class Registry(Generic[T]):
    """The objects of one kind by name.

    Args:
        kind: what the objects are called in error messages, such as ``"loss"``.
        base: their common base class.
    """

    def __init__(self, kind: str, base: type) -> None:
        self.kind = kind
        self.base = base
        self._makers: dict[str, Callable[..., T]] = {}
        self._names: dict[type, str] = {}

    def register(self, cls: type[T], *names: str, class_name: str | None = None) -> type[T]:
        """Make ``cls`` known by name.

        Args:
            cls: a subclass of this kind's base.
            names: what users write; by default the class name in snake_case.
            class_name: what configurations hold; by default the class name.

        Raises:
            InvalidArgumentError: not a subclass of this kind's base.
        """
        if not (isinstance(cls, type) and issubclass(cls, self.base)):
            raise InvalidArgumentError(
                f"a {self.kind} must be a subclass of {self.base.__name__}. Received: {cls!r}"
            )
        self._names[cls] = class_name or cls.__name__
        for name in (*(names or (snake_case(cls.__name__),)), self._names[cls]):
            self._makers[name] = cls
        return cls

    def get(self, identifier: T | str | Mapping[str, Any] | type[T]) -> T:
        """Return an object from itself, its class, its name, or a serialized configuration.

        Raises:
            InvalidArgumentError: the name or the form is unknown.
        """
        if isinstance(identifier, self.base):
            return cast(T, identifier)
        if isinstance(identifier, str):
            return self._find(identifier)()
        if isinstance(identifier, type) and issubclass(identifier, self.base):
            return identifier()
        if isinstance(identifier, Mapping) and "class_name" in identifier:
            maker: Any = self._find(str(identifier["class_name"]))
            config = identifier.get("config") or {}
            if isinstance(config, Mapping):
                made: T = maker.from_config(dict(config))
                return made
        raise InvalidArgumentError(
            f"expected a {self.kind}: a name such as {next(iter(self._makers))!r}, an instance of "
            f"{self.base.__name__}, or a dict with 'class_name' and 'config'. "
            f"Received: {identifier!r}"
        )

    def serialize(self, item: Any) -> dict[str, Any]:
        """Return the dict from which :meth:`get` builds an equal object.

        Raises:
            InvalidArgumentError: the object's class was not registered.
        """
        name = self._names.get(type(item))
        if name is None:
            raise InvalidArgumentError(
                f"only a registered {self.kind} can be written into a configuration; call "
                f"register on its class first. Received: {item!r}"
            )
        config: dict[str, Any] = item.get_config()
        return {"class_name": name, "config": config}

    def _find(self, name: str) -> Callable[..., T]:
        if name not in self._makers:
            known = sorted(self._makers, key=str.lower)
            hint = suggestion(name, known) or suggestion(snake_case(name), known)
            raise InvalidArgumentError(
                f"no {self.kind} has this name; known are "
                f"{', '.join(k for k in known if k == k.lower())}.{hint} Received: {name!r}"
            )
        return self._makers[name]


def snake_case(name: str) -> str:
    """``"GlorotUniform"`` -> ``"glorot_uniform"``."""
    return re.sub("(?<=.)(?=[A-Z][a-z])|(?<=[a-z])(?=[A-Z])", "_", name).lower()
