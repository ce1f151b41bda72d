FLAME_TENSORS = {}
FlameRig = None
