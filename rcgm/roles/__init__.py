"""Roles: student, target and teacher as adapters on one frozen network, whose weights are in memory once."""

from rcgm.roles.lora import lora_role
from rcgm.roles.role import Role, base_of
from rcgm.roles.shared_base import SharedBase
from rcgm.roles.weights import adapter_weights, merged_weights

__all__ = ["Role", "SharedBase", "adapter_weights", "base_of", "lora_role", "merged_weights"]
