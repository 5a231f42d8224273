"""YAML -> frozen, typed settings; every error in one pass, each with file:line:column."""

from fastagi.config.loading import find, load
from fastagi.config.problems import ConfigError, Problem
from fastagi.config.settings import (
    AgentQueue,
    AgentSettings,
    AlreadyElsewhere,
    AsteriskSettings,
    DeviceRuleSettings,
    ExtensionFrom,
    FastAgiSettings,
    FeatureCodes,
    HttpSettings,
    InUseByAnother,
    LockoutSettings,
    LoginSettings,
    PauseReasonSettings,
    QueueSettings,
    Settings,
    WebhookSettings,
    WhenExceeded,
)
from fastagi.config.values import HostPort, Network

__all__ = [
    "AgentQueue",
    "AgentSettings",
    "AlreadyElsewhere",
    "AsteriskSettings",
    "ConfigError",
    "DeviceRuleSettings",
    "ExtensionFrom",
    "FastAgiSettings",
    "FeatureCodes",
    "HostPort",
    "HttpSettings",
    "InUseByAnother",
    "LockoutSettings",
    "LoginSettings",
    "Network",
    "PauseReasonSettings",
    "Problem",
    "QueueSettings",
    "Settings",
    "WebhookSettings",
    "WhenExceeded",
    "find",
    "load",
]
