"""From a short pre-training config to a complete mmengine one: `data`, `tokenizer` and `schedule`
become loader and loops.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log

from sparc_pretrain import remote_run, shipped
from sparc_pretrain.atomic_file import atomic_write
from sparc_pretrain.command.cli import nearest
from sparc_pretrain.data import shard_list
from sparc_pretrain.data.address import is_remote
from sparc_pretrain.data.dataset import PairDataset
from sparc_pretrain.data.fields import Fields
from sparc_pretrain.data.paths import expand
from sparc_pretrain.data.shard_list import ShardList
from sparc_pretrain.data.tokenizer import Tokenizer
from sparc_pretrain.distributed import from_first, world_size
from sparc_pretrain.pretraining import held_out, needs, sections, starting_weights
from sparc_pretrain.pretraining.delivery import ahead, start_of_workers
from sparc_pretrain.pretraining.schedules import schedulers
from sparc_pretrain.pretraining.sections import Data, Schedule

SCENES_COMMAND = "python tools/data.py scenes --out data/scenes --train 4000 --val 400 --size 128"
CONFIGS = shipped.folder() / "configs"
STRATEGIES = {"ddp": "sparc.DistributedPretrainer", "fsdp2": "sparc.FullySharded"}
SHARDED_STATE = "sparc.ShardedStateHook"
# Captions read to train a tokenizer: enough for 32k merges, read in seconds.
TOKENIZER_CAPTIONS = 2_000_000


def complete(
    cfg: Config, accumulate: int | None = None, amp: bool = False, anew: bool = False
) -> Config:
    """Derive train_dataloader, train_cfg and param_scheduler, and make the tokenizer, in place.
    What the config says of these itself is kept, and refused where it contradicts `data` or
    `schedule`.

    Args:
        cfg: a config like ``configs/sparc.py`` with ``work_dir`` set. accumulate, amp: the
            tool's flags. anew: nothing of an earlier training in ``work_dir`` is used.

    Returns:
        cfg. The tokenizer is in ``WORK_DIR/tokenizer.json``; rank 0 makes it, an existing one is
        kept. With ``model.init_from`` it is that run's, as are the pixel statistics and what is
        special about its towers, where the config does not say.

    Raises:
        FileNotFoundError: shards are missing (the command that makes the built-in ones is named).
        ValueError: a section or key that is missing or unknown, batch sizes that do not divide.
    """
    data, schedule = check_sections(cfg)
    held = data.held_out
    sources, *others = look_at(data.sources, *([held.get("sources", ())] if held else []))
    accumulate = cfg.model.get("accumulate", 1) if accumulate is None else accumulate
    if accumulate < 1:
        raise ValueError(f"accumulate={accumulate}: 1 or more")
    local = data.global_batch // world_size()
    if local * world_size() != data.global_batch or local % accumulate:
        raise ValueError(
            f"data.global_batch={data.global_batch} does not divide into {world_size()} processes "
            f"x {accumulate} micro-batches"
        )
    held = {**held, "sources": others[0]} if held else None
    words_given = starting_weights.adopt(cfg)
    wants = cfg.model.objective, Fields.of(data.fields), sources
    for line in from_first(lambda: needs.check(*wants)):
        print_log(line, logger="current")
    needs.adopt_labels(cfg, sources)
    tokenizer = make_tokenizer(
        Path(cfg.work_dir),
        dict(cfg.tokenizer),
        sources,
        anew,
        mask="mask_id" in needs.needs_of(cfg.model.objective),
        fixed=words_given,
    )
    path = str(Path(cfg.work_dir) / "tokenizer.json")
    cfg.model.accumulate = accumulate
    cfg.model.tokenizer = path
    cfg.model.text.update(vocab_size=tokenizer.vocab_size, max_tokens=data.max_tokens)
    cfg.model.vision.update(img_size=data.image_size)
    cfg.optim_wrapper.amp = cfg.optim_wrapper.get("amp") or amp

    seed = cfg.get("randomness", {}).get("seed") or 0
    cfg.model.seed = seed
    derived = dict(
        train_dataloader=dict(
            batch_size=local,
            num_workers=data.workers,
            timeout=data.timeout if data.workers else 0,
            **start_of_workers([*sources, *(held["sources"] if held else ())], data.workers),
            collate_fn=dict(type="sparc_collate"),
            sampler=dict(
                type="sparc.PairSampler",
                seed=seed,
                mode=data.mode,
                global_batch=data.global_batch,
                **({"shards_per_block": block} if (block := data.shards_per_block) else {}),
                **ahead(sources, local // accumulate, data.workers),
            ),
            dataset=dict(
                type="sparc.PairDataset",
                sources=sources,
                tokenizer=path,
                image_size=data.image_size,
                max_tokens=data.max_tokens,
                seed=seed,
                **(dict(fields=dict(data.fields)) if data.fields else {}),
                **data.dataset,
            ),
        ),
        model_wrapper_cfg=dict(type=_wrapper(cfg)),
        train_cfg=dict(type="sparc.PretrainLoop", max_iters=schedule.steps, parts=accumulate),
    )
    loading = dict(
        persistent_workers=data.workers > 0, pin_memory=torch.cuda.is_available(), drop_last=True
    )
    validating = dict(val_interval=schedule.steps + 1)
    if held:
        derived |= held_out.sections(held, derived["train_dataloader"], data.global_batch)
        derived["train_cfg"]["val_interval"] = held["interval"]
        validating, cfg.val_evaluator = {}, []  # the loop measures by itself
    rates = _rates(cfg, schedule)
    sections.derive(cfg, derived, dict(train_dataloader=loading, train_cfg=validating))
    if rates is not None:
        cfg.param_scheduler = cfg[sections.FROM]["param_scheduler"] = rates
    return cfg


def _wrapper(cfg: Config) -> str:
    """What `strategy` wraps the model in, whose hook is added. Raises ValueError."""
    name = cfg.get("strategy", "ddp")
    if name not in STRATEGIES:
        raise ValueError(f"strategy={name!r}: use one of {', '.join(STRATEGIES)}")
    if name == "fsdp2" and world_size() > 1:
        import sparc_pretrain.engine.sharded  # noqa: F401  registers both, and takes a second

        hooks = list(cfg.get("custom_hooks") or [])
        if any(hook.get("type") == "EMAHook" for hook in hooks):
            raise ValueError("strategy='fsdp2' has no moving average: leave EMAHook out")
        if not any(hook.get("type") == SHARDED_STATE for hook in hooks):
            cfg.custom_hooks = [dict(type=SHARDED_STATE), *hooks]
    return STRATEGIES[name]


def _rates(cfg: Config, schedule: Schedule) -> list[dict] | None:
    """The schedulers of `schedule`, or None when the config has its own. Raises ValueError."""
    own = cfg.get("param_scheduler")
    if own and own != (cfg.get(sections.FROM) or {}).get("param_scheduler"):
        if schedule.warmup is None:
            return None
        raise ValueError(
            "the config has a param_scheduler and a schedule.warmup: leave the one out, or say "
            "schedule.warmup=None"
        )
    if schedule.warmup is None:
        raise ValueError("schedule.warmup=None is for a config with a param_scheduler of its own")
    return schedulers(schedule.steps, schedule.warmup, schedule.shape, schedule.cool_down)


def with_objective(cfg: Config, name: str) -> Config:
    """`cfg` under another objective, in place: that of ``configs/NAME.py``, its options included.

    Raises ValueError for a name that no such config has, with the nearest.
    """
    known = {path.stem: path for path in CONFIGS.glob("*.py")}
    if name not in known:
        told = nearest(name, known) or f": there are {', '.join(sorted(known))}"
        raise ValueError(f"--objective {name}: no {CONFIGS.name}/{name}.py{told}")
    cfg.model.objective = Config.fromfile(known[name]).model.objective
    return cfg


def look_at(*groups: Any) -> list[list[dict]]:
    """The sources of each group, see `check_sources`, whose tars one process looks at for all, once
    each, however long that takes.
    """

    def work() -> tuple[list[list[dict]], dict[str, ShardList]]:
        found = [check_sources(sources) for sources in groups]
        shards = [source["shards"] for sources in found for source in sources]
        return found, {shard_list.name(one): shard_list.look(one, show=True) for one in shards}

    found, lists = from_first(work)
    if world_size() > 1:
        shard_list.tell(lists)
    return found


def check_sections(cfg: Config) -> tuple[Data, Schedule]:
    """The sections `data` and `schedule`, after a look at `tokenizer` and at what is needed of the
    rest. Raises ValueError.
    """
    sections.read(cfg, "tokenizer", sections.Tokenizer)
    data, schedule = sections.read(cfg, "data", Data), sections.read(cfg, "schedule", Schedule)
    _check_model(cfg)
    return data, schedule


def _check_model(cfg: Config) -> None:
    """The keys that `complete` reads or sets. Raises ValueError."""
    for section, keys in (("model", ("vision", "text", "objective")), ("optim_wrapper", ())):
        value = cfg.get(section)
        if not isinstance(value, dict) or not all(isinstance(value.get(k), dict) for k in keys):
            inside = f" with the dicts {', '.join(keys)}" if keys else ""
            raise ValueError(f"`{section}` must be a dict{inside}, like in configs/sparc.py")
    optimizer = cfg.optim_wrapper.get("optimizer")
    rate = optimizer.get("lr", 0) if isinstance(optimizer, dict) else None
    if not isinstance(rate, (int, float)):
        raise ValueError(f"optim_wrapper.optimizer must be a dict whose lr is a number, not {rate}")


def check_sources(sources: Any) -> list[dict]:
    """Normalise ``data.sources`` (a path or brace pattern, or a list of dicts) and check that the
    shards exist.

    Raises FileNotFoundError with the command that makes the built-in ones, ValueError for anything
    else.
    """
    entries = sources if isinstance(sources, (list, tuple)) else [sources]
    found = [dict(shards=e) if isinstance(e, (str, Path)) else e for e in entries]
    for entry in found:
        shards = entry.get("shards") if isinstance(entry, dict) else None
        shards = shards if isinstance(shards, (list, tuple)) else [shards]
        if not all(isinstance(one, (str, Path)) for one in shards):
            raise ValueError(f"data.sources: {entry!r} is neither a path nor dict(shards=PATH)")
        try:
            expand(entry["shards"])
        except FileNotFoundError as error:
            raise FileNotFoundError(
                f"{error}. Make the built-in data with: {SCENES_COMMAND} ; then add "
                "--cfg-options data.sources='data/scenes/shards/train-*.tar'"
            ) from None
    return [dict(entry) for entry in found]


def make_tokenizer(
    work_dir: Path,
    spec: dict[str, Any],
    sources: list[dict],
    anew: bool = False,
    mask: bool = False,
    fixed: bool = False,
) -> Tokenizer:
    """The run's tokenizer, from ``WORK_DIR/tokenizer.json`` if there, else made as `spec` says and
    put there, with `spec` beside it (``tokenizer.spec.json``).

    Args:
        spec: ``dict(train=VOCAB_SIZE)`` on the shards' captions, or ``dict(load='open_clip' |
            folder | name)``. anew: one that is there is not kept. mask: with a mask token, which
            is added where there is none. fixed: the vocabulary belongs to weights, and none can be.

    Raises ValueError for another `spec`, also than that of the file which is there, for a mask
    token that is missing, and what `Tokenizer.load` raises.
    """
    return from_first(lambda: _tokenizer(work_dir, dict(spec), sources, anew, mask, fixed))


def _tokenizer(
    work_dir: Path, spec: dict[str, Any], sources: list[dict], anew: bool, mask: bool, fixed: bool
) -> Tokenizer:
    path, made = work_dir / "tokenizer.json", work_dir / "tokenizer.spec.json"
    asked = json.dumps(spec, sort_keys=True, default=str)
    if anew:
        path.unlink(missing_ok=True)
        made.unlink(missing_ok=True)
    if path.exists() and made.exists() and made.read_text(encoding="utf-8") != asked:
        raise ValueError(
            f"{path} was made as {made.read_text(encoding='utf-8')}, the config has tokenizer = "
            f"{asked}: take another --work-dir, or remove both files to train anew"
        )
    with_mask = spec.pop("mask", False)
    if not path.exists():
        if spec.keys() == {"train"}:
            captions = PairDataset.captions(sources, limit=TOKENIZER_CAPTIONS)
            tokenizer = Tokenizer.train(captions, spec["train"])
        elif spec.keys() == {"load"}:
            name = remote_run.fetched(spec["load"]) if is_remote(spec["load"]) else spec["load"]
            tokenizer = Tokenizer.open_clip() if name == "open_clip" else Tokenizer.load(name)
        else:
            raise ValueError(f"tokenizer={spec}: use dict(train=VOCAB_SIZE) or dict(load=NAME)")
        if mask and fixed and tokenizer.mask_id is None:
            raise ValueError(
                f"the tokenizer of model.init_from, {spec.get('load')}, has no mask token, which "
                "the objective needs: start from a run trained with tokenizer=dict(..., mask=True)"
            )
        if mask or with_mask:
            tokenizer = tokenizer.with_mask()
        work_dir.mkdir(parents=True, exist_ok=True)
        atomic_write(made, lambda file: file.write(asked.encode()))
        tokenizer.save(work_dir)
    return Tokenizer.load(path)
