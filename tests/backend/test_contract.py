"""Every engine has the shape of the contract: the same methods, in the same order."""

from __future__ import annotations

import inspect

import pytest

from gpuconv.backends import registry
from gpuconv.backends.base import Engine, Probe

ENGINES = registry.engine_names()
METHODS = [name for name in vars(Engine) if callable(getattr(Engine, name)) and name[0] != "_"]
CONTRACT = [name for name in vars(Engine) if name in Engine.__abstractmethods__]


def own_methods(engine):
    """Names of the public methods that a class defines itself, in its order."""
    return [
        key
        for key, value in vars(engine).items()
        if callable(getattr(value, "__func__", value)) and not key.startswith("_")
    ]


def is_whole(engine):
    """Whether a class defines a whole engine; others replace some methods of another one."""
    return Engine in engine.__bases__


def test_there_are_engines():
    assert "cpu:numpy" in ENGINES
    assert len(CONTRACT) > 20


@pytest.mark.parametrize("name", ENGINES)
def test_name_and_device(name):
    engine = registry._load(name)
    assert issubclass(engine, Engine)
    assert engine.name == name
    assert engine.device == name.partition(":")[0]
    assert engine.device in registry.DEVICES


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("method", METHODS)
def test_signature(name, method):
    engine = registry._load(name)
    if is_whole(engine) and method in CONTRACT:
        assert method in vars(engine), f"{name} does not define {method}"
    assert inspect.signature(getattr(engine, method)) == inspect.signature(getattr(Engine, method))
    if method in vars(engine):
        assert type(vars(engine)[method]) is type(vars(Engine)[method])


@pytest.mark.parametrize("name", ENGINES)
def test_public_methods_are_those_of_the_contract_in_its_order(name):
    engine = registry._load(name)
    own = own_methods(engine)
    assert own == [method for method in METHODS if method in own]
    assert set(own) >= set(CONTRACT) or not is_whole(engine)


@pytest.mark.parametrize("name", ENGINES)
def test_every_method_can_be_called_with_its_documented_arguments(name):
    for method in CONTRACT:
        parameters = inspect.signature(getattr(Engine, method)).parameters.values()
        assert all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
        assert inspect.getdoc(getattr(Engine, method))


@pytest.mark.parametrize("name", ENGINES)
def test_probing(name):
    found = registry.probe(name)
    assert isinstance(found, Probe)
    assert found.reason
    if found.available:
        assert registry.engine(name) is registry.engine(name)
        assert isinstance(registry.engine(name), registry._load(name))
