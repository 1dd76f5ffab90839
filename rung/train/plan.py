"""A tuning's configuration, with every default filled in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rung import bases, launch, methods, objectives, trackers
from rung.artefacts import folders
from rung.config import Names, as_dict, flatten, resolve
from rung.data import DataKnobs
from rung.errors import ConfigError, RungError, one_line
from rung.methods import artefact
from rung.methods.base import Method
from rung.objectives import Objective
from rung.train.knobs import RunKnobs, TrainKnobs


@dataclass
class Plan:
    """A resolved configuration: what the user asked for, with every default filled in."""

    name: str
    run: RunKnobs
    data: DataKnobs
    train: TrainKnobs
    method: Method
    config: Any
    objective: Objective

    @classmethod
    def of(cls, name: str, *layers: Mapping[str, Any]) -> Plan:
        """Merge layers of settings over the defaults, those of method and objective among them.

        Args:
            layers: settings by name, in sections or without; a later layer wins.

        Raises:
            ConfigError: naming every unknown key and bad value at once.
        """
        check_name(name)
        layers = tuple(flatten(layer) for layer in layers)
        parent = _chosen("parent", layers)
        about = _about(parent)
        layers = (_of_parent(about), *layers)
        base = _chosen("base", layers) or RunKnobs.base
        method = methods.get(_chosen("method", layers) or RunKnobs.method).on(bases.reads_spec(base))
        layers = tuple({method.renamed.get(k, k): v for k, v in layer.items()} for layer in layers)
        formed = _formed(about, method)
        layers = (formed, *layers)
        try:
            objective = objectives.get(_chosen("objective", layers) or RunKnobs.objective)
        except ConfigError as fault:
            raise ConfigError(f"--objective: {fault}") from None
        classes = [RunKnobs, DataKnobs, TrainKnobs, method.Config, objective.Config]
        problems = _foreign(method.name, objective.name, classes, layers)
        told = {key for key, _ in problems}
        layers = tuple({k: v for k, v in layer.items() if k not in told} for layer in layers)
        try:
            run, data, training, config, loss = resolve(
                classes, objective.usual(method.defaults), *layers
            )
        except ConfigError as fault:
            raise ConfigError(one_line([*(p for _, p in problems), str(fault)])) from None
        if problems:
            raise ConfigError(one_line([p for _, p in problems]))
        _refuse_processes(run)
        _refuse_sharded(run, objective)
        for tracker in run.track:
            trackers.get(tracker)
        run.base = method.base_spec(config) or run.base
        _refuse_quantized(run, method)
        _refuse_untrained(method, objective, loss)
        _refuse_parent(run.parent, method)
        if parent is not None:
            _refuse_formed(parent, formed, method, config)
        if not data.data:
            raise ConfigError("--data is missing: name a file, hf:NAME or wheel:PACKAGE/MEMBER")
        return cls(name, run, data, training, method, config, objective.configured(loss))

    def settings(self) -> dict[str, Any]:
        """All knobs as one flat mapping, from which `of` builds the same plan."""
        parts = (self.run, self.data, self.train, self.config, self.objective.config)
        return {key: value for part in parts for key, value in as_dict(part).items()}


def check_name(name: str) -> None:
    """Refuse a name that no model can have, or that means a base already.

    Raises:
        ConfigError: saying which.
    """
    folders.model_name(name)
    if bases.entry_of(name):
        raise ConfigError(f"'{name}' is the name of a base: choose another name for the model")


def _refuse_processes(run: RunKnobs) -> None:
    """Refuse an unknown launch, and a number of processes for one that starts none.

    Raises:
        ConfigError: saying what to do instead.
    """
    if run.processes is not None and not launch.get(run.launch).starts:
        starting = [known.name for known in launch.registry.all() if known.starts]
        raise ConfigError(
            f"--processes {run.processes} is for a launch that starts processes: add --launch "
            f"{' or '.join(starting)}"
        )
    launch.get(run.launch)


def _refuse_sharded(run: RunKnobs, objective: Objective) -> None:
    """Refuse a sharded base for what reads its weights in a way of its own.

    Raises:
        ConfigError: saying what to do instead.
    """
    if not run.shard:
        return
    if not (launch.here() or launch.get(run.launch).starts):
        raise ConfigError("--shard is for a launch of several processes: add --launch torchrun")
    if run.quantize != RunKnobs.quantize:
        raise ConfigError("--shard and --quantize do not go together: choose one of them")
    if objective.draws:
        raise ConfigError(
            f"--objective {objective.name} generates while it trains, which a sharded base cannot: "
            "leave --shard out"
        )


def _refuse_quantized(run: RunKnobs, method: Method) -> None:
    """Refuse a quantisation that the method cannot train on, or whose kernels are not installed.

    Raises:
        ConfigError: saying what to do instead.
    """
    if run.quantize == RunKnobs.quantize:
        return
    if method.own_weights:
        raise ConfigError(
            f"--quantize {run.quantize} does not go with {method.name}, which trains copies of the "
            "base's own weights: leave it out, or use --method lora"
        )
    bases.check_quantize(run.quantize)


def _refuse_parent(parent: str | None, method: Method) -> None:
    """Refuse to go on from a model by a method that always begins anew.

    Raises:
        ConfigError: saying what to do instead.
    """
    if parent is None or (method.trained and not method.own_base):
        return
    if method.own_base:
        raise ConfigError(
            f"--parent {parent}: {method.name} makes a base of its own each time; to adapt that base "
            f"further say --base model:{parent} and a --method, without --parent"
        )
    raise ConfigError(
        f"--parent {parent}: {method.name} is made from the data anew and cannot go on from a model; "
        "leave out --parent, and give all the data it is to know"
    )


def _refuse_untrained(method: Method, objective: Objective, config: Any) -> None:
    """Refuse an objective for a method that training does not make, unless both make reward models.

    Raises:
        ConfigError: saying what to do instead.
    """
    if method.trained or objective.wants == "replies":
        return
    if not (objective.scores and method.scores):
        scoring = [o.name for o in objectives.registry.all() if o.scores and method.scores]
        hint = f", or --objective {scoring[0]}" if scoring else ""
        raise ConfigError(
            f"--method {method.name} is not trained by gradients, so --objective {objective.name} does "
            f"not go with it: use --method lora{hint}"
        )
    own, usual = as_dict(config), as_dict(type(config)())
    if changed := sorted(key for key in own if own[key] != usual[key]):
        told = changed[0].replace("_", "-")
        raise ConfigError(f"--{told} is for trained methods: {method.name} fits without it")


def _chosen(knob: str, layers: tuple[Mapping[str, Any], ...]) -> str | None:
    """The last layer's word on a knob of the run, alone or in its section."""
    said = [v for layer in layers for k, v in layer.items() if k in (knob, f"run.{knob}") and v]
    return str(said[-1]) if said else None


def _about(parent: str | None) -> dict[str, Any]:
    """What is known of the model that training goes on from; nothing without one."""
    if parent is None:
        return {}
    try:
        return artefact.about(folders.model_folder(parent))
    except (RungError, OSError):  # told where the parent is loaded
        return {}


def _of_parent(about: Mapping[str, Any]) -> dict[str, Any]:
    """The base and the method of a parent: there is no other choice."""
    base = about.get("base") or {}
    found = {"base": base.get("spec") or base.get("name"), "method": about.get("method")}
    return {key: value for key, value in found.items() if value}


def _formed(about: Mapping[str, Any], method: Method) -> dict[str, Any]:
    """The knobs that a parent's adapter was formed by, where that is known."""
    config = about.get("config") or {}
    return {key: config[key] for key in method.formed if key in config}


def _refuse_formed(parent: str, own: Mapping[str, Any], method: Method, config: Any) -> None:
    """Refuse a knob that would form another adapter than the one that training goes on with.

    Args:
        own: what the parent was formed by; what is not known of it must be left at its default.

    Raises:
        ConfigError: naming the first.
    """
    given, stays = as_dict(config), as_dict(method.Config()) | dict(own)
    for key in method.formed:
        if given[key] != stays[key]:
            raise ConfigError(
                f"--{key.replace('_', '-')} does not go with --parent {parent}, whose adapter is "
                "formed already: leave it out"
            )


def _foreign(
    method: str, objective: str, classes: list[type], layers: tuple[Mapping[str, Any], ...]
) -> list[tuple[str, str]]:
    """Every given knob that only other methods or objectives have, and a line that names those."""
    own, found = Names(classes), []
    given = sorted({key for layer in layers for key in layer})
    for chosen, kind in ((method, methods.registry), (objective, objectives.registry)):
        others = {other.name: Names([other.Config]) for other in kind.all()}
        for key in given:
            owners = [] if own.find(key) else [n for n, names in others.items() if names.find(key)]
            if owners:
                told = f"--{key.replace('_', '-')}" if "." not in key else f"'{key}'"
                found.append((key, f"{told} belongs to {', '.join(owners)}, not to {chosen}"))
    return found
