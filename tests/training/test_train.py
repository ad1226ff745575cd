import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from conftest import SMALL, small, write_images

import sagekit as sk
from sagekit import UserError
from sagekit.data.batches import train_batches
from sagekit.data.photos import train_views
from sagekit.devices import accelerator_for
from sagekit.methods import _stages as stages
from sagekit.methods._loss import OfLogits
from sagekit.training.evaluate import predict

trainer = sys.modules["sagekit.training.train"]  # the module: sagekit.train itself is the function


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.slow
def test_algorithm_1_by_hand(tmp_path, backbone, data):
    """The loop written out with the library's parts gives the trainer's weights."""
    config = small(epochs=2, precision="fp32")
    run = sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    model = sk.build_model(config, data.class_names, backbone)
    counts, s = torch.from_numpy(data.class_counts), config.settings
    (stage,), cpu = config.stages, torch.device("cpu")
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.0, momentum=0.9, weight_decay=5e-4)
    for epoch, share in enumerate((1.0, 0.5)):  # the cosine at epoch 0 and 1 of 2
        optimizer.param_groups[0]["lr"] = s.lr * share
        for (batch,) in train_batches(data.train, stage, config.views, 48, config.seed, epoch, cpu):
            z = model.logits(batch.views[0])
            terms = [sk.losses.compensated(x, batch.labels, counts, s.gamma, s.mu) for x in z]
            loss = terms[0] + s.lambda_1 * terms[1] + s.lambda_2 * terms[2] + s.lambda_3 * terms[3]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    for name, value in run.weights().items():
        torch.testing.assert_close(value, model.trained()[name].detach(), atol=1e-5, rtol=1e-4, msg=name)


def test_one_epoch_stays_far_above_chance(runs):
    """Chance is 1 in 48."""
    accuracy = {name: run.metrics["results"]["single"]["all"]["accuracy"] for name, run in runs.items()}
    assert accuracy["lift"] > 0.2
    assert accuracy["sage"] > 0.2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(tmp_path, backbone, data, runs):
    again = sk.train(small(), tmp_path / "again", data=data, backbone=backbone, show=False)
    other = sk.train(small(seed=1), tmp_path / "other", data=data, backbone=backbone, show=False)
    assert same(again.weights(), runs["sage"].weights())
    assert not same(other.weights(), runs["sage"].weights())


@pytest.mark.slow
def test_a_killed_run_continues_bit_for_bit(tmp_path, backbone, data, monkeypatch):
    config = small(epochs=3)
    whole = sk.train(config, tmp_path / "whole", data=data, backbone=backbone, show=False)
    real, done = trainer._epoch, []

    def killed(*args):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(1)
        return real(*args)

    monkeypatch.setattr(trainer, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        sk.train(config, tmp_path / "cut", data=data, backbone=backbone, show=False)
    assert (tmp_path / "cut" / "state.pt").exists()
    monkeypatch.setattr(trainer, "_epoch", real)
    resumed = sk.train(config, tmp_path / "cut", resume=True, data=data, backbone=backbone, show=False)
    assert same(resumed.weights(), whole.weights())
    assert resumed.metrics["results"] == whole.metrics["results"]
    assert len(resumed.history) == 3
    assert not (tmp_path / "cut" / "state.pt").exists()


@pytest.mark.slow
def test_accumulated_parts_are_one_batch(tmp_path, backbone, data):
    whole, parts = (sk.train(small(accumulate=a, precision="fp32", drop_last=True), tmp_path / str(a), data=data,
                             backbone=backbone, show=False) for a in (1, 4))
    for name, value in whole.weights().items():
        torch.testing.assert_close(parts.weights()[name], value, atol=1e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_bf16_stays_near_float32(tmp_path, backbone, data):
    half, full = (sk.train(small(precision=precision), tmp_path / precision, data=data, backbone=backbone, show=False)
                  for precision in ("bf16", "fp32"))
    a, b = (r.history["loss"].iloc[0] for r in (half, full))
    assert a == pytest.approx(b, rel=0.02)
    assert half.weights()["head.rows"].dtype == torch.float32


@pytest.mark.slow
@pytest.mark.skipif(shutil.which(os.environ.get("CXX", "g++")) is None, reason="torch.compile needs a C++ compiler")
def test_a_compiled_step_trains_the_same(tmp_path, backbone, data):
    plain, compiled = (sk.train(small(compile=c, precision="fp32"), tmp_path / str(c), data=data, backbone=backbone, show=False)
                       for c in (False, True))
    assert compiled.history["loss"].iloc[0] == pytest.approx(plain.history["loss"].iloc[0], rel=1e-4)
    for name, value in plain.weights().items():
        torch.testing.assert_close(compiled.weights()[name], value, atol=2e-4, rtol=1e-3, msg=name)


@pytest.mark.slow
def test_without_a_compiler_compiling_is_one_line(tmp_path, backbone, data, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "no-such-compiler"))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    with pytest.raises(UserError, match=r"compile=true did not work here.*No working C.*--resume --set compile=false"):
        sk.train(small("lift", compile=True), tmp_path / "run", data=data, backbone=backbone, show=False)
    assert sk.train(small("lift"), tmp_path / "run", resume=True, data=data, backbone=backbone, show=False).finished


@pytest.mark.slow
def test_vector_gate_trains(tmp_path, backbone, data):
    run = sk.train(small(gate="vector"), tmp_path / "vector", data=data, backbone=backbone, show=False)
    assert run.weights()["net.adapters.0.gate"].abs().max() > 0


@pytest.mark.slow
def test_vector_gate_follows_the_projection(tmp_path, backbone, data):
    """Finding 5 in a whole run: same losses within 2 %, though the shared LayerNorm and w_bar move a little."""
    a, b = (sk.train(small(gate=gate, lr=0.01, guidance_grad=False), tmp_path / gate, data=data, backbone=backbone, show=False)
            for gate in ("projection", "vector"))
    assert a.history["loss"].iloc[0] == pytest.approx(b.history["loss"].iloc[0], rel=0.02)


def test_a_folder_with_another_run_is_refused(runs):
    with pytest.raises(UserError, match="holds a run already"):
        sk.train(small(), runs["sage"].path)


def test_resume_with_other_settings_is_refused(runs):
    with pytest.raises(UserError, match=r"was started with lr=.*, not 0\.5"):
        sk.train(small(lr=0.5), runs["sage"].path, resume=True)


def test_resume_on_another_machine_is_fine(runs):
    assert sk.train(small(device="cpu", workers=0), runs["sage"].path, resume=True).finished


def test_resume_of_a_finished_run_is_the_run(runs):
    assert sk.train(small(), runs["sage"].path, resume=True).metrics == runs["sage"].metrics


def test_a_damaged_state_is_one_line(tmp_path, backbone, data):
    config = small()
    run = sk.Run(tmp_path / "run")
    run.write_config(config)
    (run.path / "state.pt").write_bytes(b"nonsense")
    with pytest.raises(UserError, match=r"state\.pt is damaged"):
        sk.train(config, run.path, resume=True, data=data, backbone=backbone, show=False)


def test_divergence_stops_with_advice(tmp_path, backbone, data):
    with pytest.raises(UserError, match=r"training diverged\. Lower lr, or set clip_norm=1"):
        sk.train(small("lift", lr=1e12), tmp_path / "run", data=data, backbone=backbone, show=False)


def learning_rate(stage, epoch, share=0.0):
    return stage.optimizer.lr * stage.rate(epoch, share, stage.epochs)


@pytest.mark.slow
def test_the_rates_of_a_run_are_the_schedule_s(tmp_path, data):
    """In two stages; each counts its epochs from 0."""
    config = small("crt", epochs=2, classifier_epochs=2, warmup_epochs=4, lr=0.04, classifier_lr=0.02)
    run = sk.train(config, tmp_path / "run", data=data, show=False)
    assert run.history["lr"].tolist() == pytest.approx([0.01, 0.02, 0.02, 0.01])
    assert run.history["stage"].tolist() == [1, 1, 2, 2]
    assert run.history["epoch"].tolist() == [1, 2, 3, 4]


def test_schedule_by_epoch_and_by_step():
    by_epoch, by_step = (small(epochs=4, lr=2.0, schedule=s).stages[0] for s in ("epoch", "step"))
    rates = [learning_rate(by_epoch, e, 0.5) for e in range(4)]
    assert rates == pytest.approx([2, 2 * 0.853553, 1, 2 * 0.146447], abs=1e-5)
    assert learning_rate(by_step, 1, 1.0) == pytest.approx(1)


def test_from_scratch_the_rate_warms_up_and_falls_twice():
    """200 epochs, 5 of warm-up, times 0.01 after 160 and again after 180."""
    (stage,) = sk.Config.preset("cifar100-lt-100", "scratch").stages
    rates = {e: learning_rate(stage, e) for e in (0, 3, 4, 5, 159, 160, 179, 180, 199)}
    assert rates == pytest.approx({0: 0.02, 3: 0.08, 4: 0.1, 5: 0.1, 159: 0.1, 160: 1e-3, 179: 1e-3, 180: 1e-5, 199: 1e-5})


@pytest.mark.slow
@pytest.mark.parametrize("method", ["lift", "scratch"])
def test_cdb_weighs_by_the_validation_images_accuracy_after_the_epoch_before(tmp_path, backbone, data, monkeypatch, method):
    """No weights in the first epoch, as its authors have it; in the second those of the first epoch's end."""
    config, used = small(method, loss="cdb", epochs=2), []
    real = OfLogits.loss

    def spy(self, now):
        used.append((now.epoch, self.class_accuracy.clone()))
        return real(self, now)

    monkeypatch.setattr(OfLogits, "loss", spy)
    whole = sk.train(config, tmp_path / "whole", data=data, backbone=backbone, show=False)
    assert all(known.isnan().all() for epoch, known in used if epoch == 0)
    second = [known for epoch, known in used if epoch == 1]
    assert all(torch.equal(known, whole.weights()["class_accuracy"]) for known in second)
    one = sk.train(small(method, loss="cdb"), tmp_path / "one", data=data, backbone=backbone, show=False)
    clip = backbone if method == "lift" else None
    found = predict(sk.load_model(one, data.class_names, clip), data.val, one.config, accelerator_for(one.config.machine),
                    show=False)
    accuracy = [found.correct[found.labels == c].mean() for c in range(len(data.class_names))]
    assert second[0].tolist() == pytest.approx(accuracy, abs=1e-6)


def test_cdb_says_how_to_get_validation_images(data):
    with pytest.raises(UserError, match=r"scratch chooses or measures on validation images here, .*--set val_share=0.1"):
        trainer._check(small("scratch", loss="cdb"), replace(data, val=None), 1)


@pytest.mark.slow
def test_a_run_survives_kill_9(tmp_path):
    """A real process, really killed in the middle, and continued: the same weights as one that was left alone."""
    sets = [f"--set={k}={v}" for k, v in (*SMALL.items(), ("epochs", 6))]

    def start(out, *more):
        return subprocess.Popen([sys.executable, "-m", "sagekit", "train", f"--out={tmp_path / out}", *sets, *more],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    cut = start("cut")
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "state.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    cut.kill()
    assert cut.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "metrics.json").exists()
    assert start("cut", "--resume").wait(timeout=240) == 0
    assert start("whole").wait(timeout=240) == 0
    a, b = sk.Run(tmp_path / "cut"), sk.Run(tmp_path / "whole")
    assert same(a.weights(), b.weights())
    assert a.metrics["results"] == b.metrics["results"]


@pytest.mark.slow
def test_clipping_bounds_the_step(tmp_path, backbone, data):
    run = sk.train(small("classifier", clip_norm=1e-9, weight_decay=0.0), tmp_path / "run", data=data, backbone=backbone,
                   show=False)
    start = sk.build_model(small("classifier"), data.class_names, backbone).head.rows
    torch.testing.assert_close(run.weights()["head.rows"], start.detach(), atol=1e-6, rtol=0)


def test_batch_that_cannot_be_dealt_evenly(tmp_path, backbone, data):
    with pytest.raises(UserError, match="choose a multiple of 3"):
        sk.train(small(accumulate=3), tmp_path / "run", data=data, backbone=backbone, show=False)


def test_a_batch_larger_than_the_set(tmp_path, backbone, data):
    with pytest.raises(UserError, match=r"batch_size is 4096 and the training set has \d+ images; lower it with --set"):
        sk.train(small("lift", batch_size=4096), tmp_path / "run", data=data, backbone=backbone, show=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.parametrize("drop_last", [False, True])
def test_the_last_incomplete_batch_is_trained_on_unless_dropped(tmp_path, backbone, data, monkeypatch, drop_last):
    steps = []
    monkeypatch.setattr(sk.methods.load("classifier"), "after_step", lambda self: steps.append(1))
    assert len(data.train) % 64
    sk.train(small("classifier", drop_last=drop_last), tmp_path / "run", data=data, backbone=backbone, show=False)
    assert len(steps) == len(data.train) // 64 + (not drop_last)


def test_a_second_stage_needs_a_first(tmp_path, data):
    with pytest.raises(UserError, match="stage 2 of crt starts from stage 1, which has 0 epochs"):
        sk.train(small("crt", epochs=0), tmp_path / "run", data=data, show=False)
    assert not (tmp_path / "run").exists()


def test_a_stage_that_trains_nothing(tmp_path, backbone, data, monkeypatch):
    config = small("lift")
    stage = replace(config.stages[0], trains="haed.")
    monkeypatch.setattr(sk.methods.load("lift"), "stages", classmethod(lambda cls, settings: [stage]))
    with pytest.raises(UserError, match=r"stage 1 of lift trains nothing: no parameter's name starts with 'haed\.'"):
        sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)


def test_a_method_of_one_process_is_refused_in_two(data):
    trainer._check(small("proco"), data, 1)
    with pytest.raises(UserError, match=r"method proco runs in one process .*start it without accelerate"):
        trainer._check(small("proco"), data, 2)


def test_zero_shot_trains_nothing(runs, data, backbone):
    run = runs["zero_shot"]
    with pytest.raises(UserError, match=r"'epochs' is a setting of .*, not of zero_shot"):
        small("zero_shot", epochs=1)
    assert sorted(path.name for path in run.path.iterdir()) == [
        "config.yaml", "log.txt", "metrics-val.json", "metrics.json", "predictions-val.npz", "predictions.npz"]
    assert run.metrics["trainable_parameters"] == {}
    assert len(run.history) == 0
    fresh = sk.build_model(run.config, data.class_names, backbone).eval()
    again = sk.load_model(run, data.class_names, backbone).eval()
    images = data.test.images[:20] / 255
    with torch.no_grad():
        logits = again.logits(images).prediction
        assert torch.equal(logits, fresh.logits(images).prediction)
    stored = torch.from_numpy(run.predictions().logits[:20])
    torch.testing.assert_close(stored.softmax(1), logits.softmax(1), atol=1e-3, rtol=0)
    assert sk.train(run.config, run.path, resume=True, data=data, backbone=backbone).metrics == run.metrics


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(tmp_path):
    with pytest.raises(UserError, match="no cuda device on this machine"):
        sk.train(small(device="cuda"), tmp_path / "run")


def in_processes(number, *arguments):
    """``sagekit ARGUMENTS`` in several processes on the CPU (gloo), as ``accelerate launch`` starts them."""
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={number}", "-m",
                           "sagekit", *map(str, arguments)], capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.slow
def test_two_processes_train_and_measure_as_one(tmp_path, backbone, data):
    """The same global batch in float32: the same history, weights, logits and metrics, to float tolerance, by one writer."""
    whole = {"precision": "fp32", "drop_last": True}  # the last batch cannot be dealt evenly
    one = sk.train(small(**whole), tmp_path / "one", data=data, backbone=backbone, show=False)
    in_processes(2, "train", "--device=cpu", f"--out={tmp_path / 'two'}", "--set=precision=fp32", "--set=drop_last=true",
                 *[f"--set={k}={v}" for k, v in SMALL.items()])
    two = sk.Run(tmp_path / "two")
    log = (two.path / "log.txt").read_text()
    assert "2 process(es)" in log
    assert [log.count(line) for line in ("start:", "epoch 1/1", "finished")] == [1, 1, 1]
    for column in ("loss", "z", "z_v", "z_t", "train_accuracy", "s_v", "s_t", "lr"):
        assert two.history[column].iloc[0] == pytest.approx(one.history[column].iloc[0], rel=1e-4), column
    for name, value in one.weights().items():
        torch.testing.assert_close(two.weights()[name], value, atol=1e-4, rtol=1e-3, msg=name)
    assert (two.predictions().labels == one.predictions().labels).all()
    assert abs(two.predictions().logits - one.predictions().logits).max() < 0.02  # half precision in the file
    assert two.metrics["test_images"] == 192
    for group in ("head", "medium", "tail"):
        a, b = (run.metrics["results"]["single"]["groups"]["own"][group] for run in (one, two))
        assert a["accuracy"] == pytest.approx(b["accuracy"], abs=1.5 / max(1, a["images"])), group  # no head in so few images


@pytest.mark.slow
def test_two_processes_measure_one_network(tmp_path):
    """BatchNorm's running statistics are each process's own until the first one's are handed out."""
    in_processes(2, "train", "--method=scratch", "--device=cpu", f"--out={tmp_path / 'two'}", "--set=share_stages=false",
                 *[f"--set={k}={v}" for k, v in SMALL.items()])
    two = sk.Run(tmp_path / "two")
    one = sk.Run(shutil.copytree(two.path, tmp_path / "one"))
    sk.evaluate(one, show=False, device="cpu")
    assert (one.predictions().labels == two.predictions().labels).all()
    assert abs(one.predictions().logits - two.predictions().logits).max() < 0.02  # half precision in the file


@pytest.mark.slow
def test_an_uneven_tail_is_counted_once(tmp_path, runs):
    """192 images among five processes: two of them get one more than the others, and the measures stay what they were."""
    copy = sk.Run(shutil.copytree(runs["lift"].path, tmp_path / "lift"))
    in_processes(5, "evaluate", copy.path, "--set=device=cpu")
    assert (copy.predictions().labels == runs["lift"].predictions().labels).all()
    assert abs(copy.predictions().logits - runs["lift"].predictions().logits).max() < 0.02
    a, b = (run.metrics["results"]["single"] for run in (copy, runs["lift"]))
    assert a["all"]["images"] == 192
    assert a["all"]["accuracy"] == pytest.approx(b["all"]["accuracy"], abs=1.5 / 192)


@pytest.mark.slow
def test_waiting_for_images_is_measured_and_said(tmp_path, monkeypatch, backbone, capsys):
    for name in ("plain circle", "plain star"):
        for split in ("train", "test"):
            write_images(tmp_path / "photos" / split / name, 8, size=80)

    def slow(*arguments):
        time.sleep(0.2)
        return train_views(*arguments)

    monkeypatch.setattr("sagekit.data.photos.train_views", slow)
    config = sk.Config.preset("folder", "lift", data_root=tmp_path / "photos", backbone="mini", pretrained="", bottleneck=2,
                              epochs=1, batch_size=8, test_resize=48, ensemble_margin=6, workers=0)
    run = sk.train(config, tmp_path / "run", backbone=backbone)
    row = run.history.iloc[0]
    assert 16 * 0.2 <= row["waiting"] <= row["seconds"]
    assert "spent waiting for images to be read; --set workers=2 may help" in (run.path / "log.txt").read_text()
    assert "waiting for images" in capsys.readouterr().err


def test_images_in_memory_are_not_waited_for(runs):
    assert (runs["sage"].history["waiting"] < runs["sage"].history["seconds"]).all()
    assert "waiting" not in (runs["sage"].path / "log.txt").read_text()


def test_watched_images_are_a_column_of_the_last_fifth(tmp_path, backbone, data):
    config = small("classifier", epochs=5, watch="test")
    run = sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    column = run.history["test_accuracy"]
    assert column.isna().tolist() == 4 * [True] + [False]
    assert column.iloc[-1] == pytest.approx(run.metrics["results"]["single"]["mean"]["accuracy"])
    plain = sk.train(config.changed(watch=""), tmp_path / "plain", data=data, backbone=backbone, show=False)
    assert same(run.weights(), plain.weights())
    assert "test_accuracy" not in plain.history


def test_watching_validation_images_needs_some(tmp_path):
    with pytest.raises(UserError, match="watch=val needs validation images"):
        sk.train(small("classifier", val_per_class=0, watch="val"), tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_best_epoch_on_validation_images_is_kept(tmp_path, backbone, data, monkeypatch):
    """With a rate that ruins later epochs the best is an early one; the run ends there, killed or not."""
    config = small("classifier", epochs=4, keep="best", lr=0.05)
    monkeypatch.setattr(stages, "cosine", lambda epoch, share, epochs: [1.0, 1.0, -200.0, -200.0][epoch])
    run = sk.train(config, tmp_path / "run", data=data, backbone=backbone, show=False)
    watched = run.history["val_accuracy"].tolist()
    best = watched.index(max(watched))
    assert best < 2 < len(watched)
    assert run.record("val")["results"]["single"]["mean"]["accuracy"] == pytest.approx(watched[best])
    assert f"back to epoch {best + 1}, the best on validation images" in (run.path / "log.txt").read_text(encoding="utf-8")
    real = trainer._epoch

    def killed(*args):
        if args[5] == 3:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(trainer, "_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        sk.train(config, tmp_path / "cut", data=data, backbone=backbone, show=False)
    monkeypatch.setattr(trainer, "_epoch", real)
    again = sk.train(config, tmp_path / "cut", resume=True, data=data, backbone=backbone, show=False)
    assert same(again.weights(), run.weights())


def test_the_best_epoch_needs_validation_images(tmp_path):
    with pytest.raises(UserError, match=r"classifier chooses or measures on validation images .* --set val_share=0\.1"):
        sk.train(small("classifier", val_per_class=0, keep="best"), tmp_path / "run", show=False)
    assert not (tmp_path / "run").exists()
