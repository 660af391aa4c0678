"""kd distill."""

from __future__ import annotations

from kdcli.cli import options as o
from kdcli.cli.training import run_training


def command(
    teacher: o.Teachers = None,
    student: o.Student = None,
    recipe: o.RecipeOption = None,
    set_: o.Set = None,
    data: o.Data = None,
    limit: o.LimitOption = None,
    batch_size: o.BatchSizeOption = None,
    threads: o.Threads = None,
    code: o.Code = None,
    trust_model: o.TrustModel = False,
    allow_tables: o.AllowTables = False,
    allow_remote: o.AllowRemote = False,
    signature: o.Signature = None,
    output_name: o.OutputName = None,
    json: o.Json = False,
    quiet: o.Quiet = False,
    verbose: o.Verbose = False,
    no_color: o.NoColor = False,
    out: o.Out = None,
    resume: o.Resume = False,
    overwrite: o.Overwrite = False,
    seed: o.SeedOption = None,
    epochs: o.Epochs = None,
    devices: o.Devices = None,
    dry_run: o.DryRun = False,
    max_time: o.MaxTime = None,
    no_preflight: o.NoPreflight = False,
    cache_limit: o.CacheLimit = None,
    gate: o.GateOption = None,
    min_accuracy: o.MinAccuracy = None,
    max_accuracy_drop: o.MaxAccuracyDrop = None,
    min_gain: o.MinGain = None,
    min_agreement: o.MinAgreement = None,
    max_latency_ms: o.MaxLatencyMs = None,
    max_latency_ratio: o.MaxLatencyRatio = None,
    max_size_mb: o.MaxSizeMb = None,
    strict_gates: o.StrictGates = False,
) -> None:
    """Train a student under a teacher."""
    given = dict(locals())

    from kdcli.commands.distill import distill

    run_training("distill", distill, given)
