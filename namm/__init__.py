"""Neural Attention Memory Models: the core. Needs torch and safetensors, and knows no modality."""

from namm.config import NAMMConfig
from namm.memory import Memory
from namm.model import NAMM
from namm.report import MemoryReport

__all__ = ["NAMM", "Memory", "MemoryReport", "NAMMConfig"]
