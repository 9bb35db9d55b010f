"""Roles: student, target and teacher as adapters on one frozen network, whose weights are in memory once."""

from rcgm.roles.lora import lora_role
from rcgm.roles.role import Role, base_of
from rcgm.roles.shared_base import SharedBase

__all__ = ["Role", "SharedBase", "base_of", "lora_role"]
