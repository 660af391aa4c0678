"""kd train-teacher."""

from __future__ import annotations

from kdcli.cli import options as o
from kdcli.cli.training import run_training


def command(
    teacher: o.Teacher = None,
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
) -> None:
    """Train a teacher on labels."""
    given = dict(locals())

    from kdcli.commands.train_teacher import train_teacher

    run_training("train-teacher", train_teacher, given)
