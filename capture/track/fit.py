"""Track one clip: landmarks and pictures to camera, personal lattice, basis, and a state per frame."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
from torch import Tensor

from avatar.capture_data import Landmarks, Splits, Track
from avatar.rig.arkit import ARKIT_INDEX, ARKIT_NAMES
from avatar.rig.arkit_basis import GAZE_SIDE_RAD, GAZE_UP_RAD, arkit_basis
from avatar.rig.lattice import REGIONS, deform, eyeball_centres, lattice_table
from avatar.rotations import rigid
from avatar.types import Reporter, ignore_progress
from capture.track import anchor as texture
from capture.track.config import TrackConfig
from capture.track.rig_fit import *
from capture.track.solver import *
from capture.track.torso import fill_gaps, register_torso, torso_poses
import time


def prior52(c, E=52):
    lower = torch.zeros(E); upper = torch.full((E,), 1.3)
    return CoefficientPrior(lower, upper, torch.full((E,), c.l1), torch.full((E,), c.l2), torch.zeros(E))


MP = sorted({p for n in ("lip_upper_outer", "lip_upper_inner", "lip_lower_outer", "lip_lower_inner", "lid_left_upper", "lid_left_lower",
  "lid_right_upper", "lid_right_lower", "eye_corners_left", "eye_corners_right", "iris_left", "iris_right") for p in REGIONS[n]})
IRIS = list(range(468, 478))


def fit_track(landmarks, *, frame, mask, width, height, fps, splits, report=ignore_progress, config=TrackConfig()):
    c = config
    tick = time.time()
    def log(*a):
        nonlocal tick
        if c.verbose: print(f"[{time.time()-tick:.1f}s]", *a, flush=True)
        tick = time.time()
    ok = landmarks.valid
    F = len(ok)
    camera = Pinhole(c.focal_widths * max(width, height), (width / 2, height / 2))
    table = lattice_table()
    generic = table.neutral
    index = torch.nonzero(ok)[:, 0]
    P = landmarks.points[index].clone()
    face_px = float((P[:, 454, :2] - P[:, 234, :2]).norm(dim=-1).median())
    sigma = 0.004 * face_px
    is_train = (index >= splits.train[0]) & (index < splits.train[1])
    tr = torch.nonzero(is_train)[:, 0]
    pose = initial_pose(generic, P, camera)
    key = spread_frames(pose, tr, c.keyframes)
    lattice, basis = generic, arkit_basis(generic)
    coef = torch.zeros(len(index), 52)
    prior = prior52(c)
    zero = torch.zeros_like(generic)

    def lprior(lattice):
        return lattice_prior(generic, lattice, c.bend_m, 0.03)

    def seen_mp(coef, pose):
        return Observations(P[..., :2], visibility(facing(lattice, basis, coef, pose)) / sigma**2)

    seen = seen_mp(coef, pose)
    sol = bundle_adjust(lattice, deform(zero, basis, coef[key]), camera, seen[key], lprior(lattice), pose[key], iterations=15, scale=2.0, free_focal=False)
    for r in range(c.rounds):
        lattice, kp = normalise(sol.lattice, sol.pose, generic)
        basis = arkit_basis(lattice)
        pose = initial_pose(lattice, P, camera)
        pose.R[key] = kp.R; pose.t[key] = kp.t
        seen = seen_mp(coef, pose)
        fs = solve_frames(lattice, basis, camera, seen[key], prior, pose[key], coef[key], iterations=12, scale=2.0)
        coef[key] = fs.coefficients
        sol = bundle_adjust(lattice, deform(zero, basis, coef[key]), camera, seen[key], lprior(lattice), fs.pose, iterations=10, scale=2.0, free_focal=False)
    lattice, kp = normalise(sol.lattice, sol.pose, generic)
    log("landmark rig")
    pose = initial_pose(lattice, P, camera)
    coef = torch.zeros(len(index), 52)
    fs = solve_frames(lattice, basis, camera, seen_mp(coef, pose), prior, pose, coef, iterations=10, scale=2.0)
    fs = solve_frames(lattice, basis, camera, seen_mp(fs.coefficients, fs.pose), prior, fs.pose, fs.coefficients, iterations=10, scale=2.0)
    pose, coef = fs.pose, fs.coefficients
    log("landmark frames")
    obs = Observations(P[..., :2], seen_mp(coef, pose).weight)
    patches = None
    sig = None
    for r in range(c.anchor_rounds):
        px = project(deform(lattice, basis, coef), pose, camera)
        fac = facing(lattice, basis, coef, pose)
        if patches is None:
            patches = [texture.cut_patch(frame(int(i)), px[k].numpy(), c.texture_px) for k, i in enumerate(index)]
            log("patches")
        layout = texture.texture_map(lattice.double().numpy(), table.triangles.numpy(), c.texture_px)
        if r == 0:
            front = (pose.R[tr] * torch.tensor([1.0, -1, -1]).diag()).sum((1, 2))
            use = tr[front.argsort(descending=True)[:120]]
        else:
            use = tr[:: max(1, len(tr) // 300)]
        warp = px if r == 0 else torch.where((conf > 0.1)[..., None], A, px)
        ref = texture.mean_texture(layout, patches, warp.numpy(), fac.numpy(), use.numpy(), c.workers)
        got = texture.anchor(layout, ref, patches, px.numpy(), fac.numpy(), c.workers, lambda n: None)
        log("anchor", r)
        A, conf = torch.from_numpy(got.points), torch.from_numpy(got.confidence)
        A[:, IRIS] = P[:, IRIS, :2]
        iris_w = visibility(fac[:, IRIS]) / sigma**2
        for it in range(2):
            if sig is None:
                w = conf / sigma**2
            else:
                w = conf / sig**2
            if sig is not None:
                rigid_set = torch.zeros(478, dtype=torch.bool)
                rigid_set[sig[:468].argsort()[: c.rigid_points]] = True
                wr = torch.where(rigid_set, w, w * 0.01)
            else:
                wr = w.clone()
            wr[:, IRIS] = 0.05 * iris_w
            free = r >= c.free_focal_round and sig is not None
            off = deform(zero, basis, coef) * c.ba_expression
            sol = bundle_adjust(lattice, off[key], camera, Observations(A, wr)[key], lprior(lattice), pose[key],
                                iterations=c.ba_iterations, scale=2.0, free_focal=free)
            old_focal = camera.focal
            camera = sol.camera
            lattice, kp = normalise(sol.lattice, sol.pose, generic)
            pose = Pose(pose.R.clone(), pose.t * (kp.t[:, 2].median() / pose.t[key, 2].median()))
            pose.R[key] = kp.R; pose.t[key] = kp.t
            # rigid poses of all frames
            e0 = torch.zeros(len(index), 0)
            pr0 = CoefficientPrior(torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(0), torch.zeros(0))
            obs_r = Observations(A - (project(lattice + off, pose, camera) - project(lattice.expand(len(index), -1, -1), pose, camera)), wr)
            fr = solve_frames(lattice, basis[:0], camera, obs_r, pr0, pose, e0, iterations=8, scale=2.0)
            pose = fr.pose
            res = (project(lattice.expand(len(index), -1, -1), pose, camera) - A).norm(dim=-1)
            good = torch.where(conf > 0.2, res, torch.nan)[tr]
            sig = (torch.nanmedian(good, 0).values / 1.18)
            sig = torch.where(torch.isnan(sig), torch.full_like(sig, 5 * sigma), sig).clamp_min(0.15 * sigma)
            log("BA", r, it, "focal", round(camera.focal, 1), "cost", round(sol.cost), "sigma median", float(sig[:468].median()))
        basis = arkit_basis(lattice)
        # coefficients at the rigid pose
        mp = seen_mp(coef, pose)
        model = project(deform(lattice, basis, coef), pose, camera)
        pts, w = A.clone(), conf / (c.flow_sigma * sigma) ** 2
        wm = mp.weight[:, MP] * c.mp_gain
        wa = w[:, MP]
        pts[:, MP] = (A[:, MP] * wa[..., None] + P[:, MP, :2] * wm[..., None]) / (wa + wm)[..., None]
        w[:, MP] = wa + wm
        seen = Observations(pts, w)
        fs = solve_frames(lattice, basis, camera, seen, prior, pose, coef, iterations=10, scale=2.0,
                          pose_prior=(pose, fr.pose_information * c.pose_gain))
        coef = fs.coefficients
        if c.keep_rigid_pose: 
            pass
        else:
            pose = fs.pose
        log("coefficients")
    import os
    if os.environ.get("DUMP"): torch.save(dict(A=A, conf=conf, pose=(pose.R, pose.t), coef=coef, lattice=lattice, basis=basis, focal=camera.focal, sig=sig, P=P, key=key), os.environ["DUMP"])
    px = project(deform(lattice, basis, coef), pose, camera)
    res = (px - P[..., :2]).square().sum(-1).mean(-1).sqrt()
    track = assemble(pose, coef, lattice, basis, camera, index, F, landmarks, res, fps)
    if c.torso:
        track = replace(track, T_world_torso=track_torso(track, frame, mask, splits))
        log("torso")
    return track


def track_torso(track: Track, frame, mask, splits) -> Tensor:
    T = (track.T_cam_world[0] @ track.T_world_head).double()
    outline = list(REGIONS["face_oval"])
    posed = deform(track.lattice, track.basis, track.expression).double()[:, outline]
    p = (posed @ T[:, :3, :3].transpose(1, 2) + T[:, None, :3, 3]) @ track.K[0].double().T
    face = (p[..., :2] / p[..., 2:]).numpy()
    front = T[:, 0, 0] - T[:, 1, 1] - T[:, 2, 2]
    candidates = torch.zeros(len(track), dtype=torch.bool)
    candidates[splits.train[0]:splits.train[1]] = True
    front[~(candidates & track.valid)] = -9
    ref = int(front.argmax())

    def grey(f):
        im = cv2.cvtColor(np.ascontiguousarray(frame(f)), cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
        a = mask(f).astype(np.float32) / 255
        return im * a + 1 - a

    m = register_torso(grey, lambda f: face[f], len(track), ref)
    m = m and fill_gaps(m, 0.8)
    assert m is not None
    P = torch.tensor(torso_poses(m, T[ref].numpy(), track.K[0].double().numpy()))
    return (torch.linalg.inv(track.T_cam_world[0].double()) @ P).float()


def assemble(pose, coef, lattice, basis, camera, index, F, landmarks, res, fps):
    K = torch.tensor([[camera.focal, 0, camera.centre[0]], [0, camera.focal, camera.centre[1]], [0, 0, 1]])
    flip = torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    t0 = pose.t.mean(0)
    Tcw = rigid(flip, t0)
    T = rigid(flip @ pose.R, (pose.t - t0) @ flip.T)
    near = (torch.arange(F)[:, None] - index[None]).abs().argmin(1)
    cf = coef[near]
    g = torch.zeros(F, 2, 2)
    a = ARKIT_INDEX
    for e, side in enumerate(("Left", "Right")):
        o, i = cf[:, a["eyeLookOut" + side]], cf[:, a["eyeLookIn" + side]]
        g[:, e, 0] = (o - i if side == "Left" else i - o) * GAZE_SIDE_RAD
        g[:, e, 1] = (cf[:, a["eyeLookUp" + side]] - cf[:, a["eyeLookDown" + side]]) * GAZE_UP_RAD
    lp = landmarks.points[..., :2] * landmarks.valid[:, None, None]
    return Track(K=K[None], T_cam_world=Tcw[None], lattice=lattice, basis=basis, eyeballs=eyeball_centres(lattice),
        expression=cf, gaze=g, T_world_head=T[near], T_world_torso=T[near].clone(), landmarks_px=lp, residual_px=res[near],
        valid=landmarks.valid, expression_names=ARKIT_NAMES, rig="lattice", fps=fps)
