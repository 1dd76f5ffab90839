"""Engine: batched generation over one bank, different adapters and the bare base side by side.

engine = Engine(bank, models)
engine.generate([GenerationRequest("base", prompt), GenerationRequest("tuned", prompt)])
"""

from rung.engine.engine import Engine
from rung.engine.request import Completion, Generation, GenerationRequest, Token
from rung.engine.served_model import ServedModel

__all__ = ["Completion", "Engine", "Generation", "GenerationRequest", "ServedModel", "Token"]
