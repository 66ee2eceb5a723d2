# ruff: noqa: C408 (mmengine configs are written with dict)
"""mmpretrain: left or right hand, from a ti_* backbone; mmengine imports this package by `custom_imports`.

mim train mmpretrain mmpretrain_config.py     with images in hands/train/{left,right} and hands/val/{left,right}

mmengine 0.10.7 reads its own checkpoints back (--resume) only with TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 set, since
PyTorch 2.6 refuses what it puts beside the weights. mmpretrain 1.2.0 does not import where transformers 5 and
pycocotools are both installed.
"""

custom_imports = dict(imports=["ti_backbones"])
default_scope = "mmpretrain"

model = dict(
    type="ImageClassifier",
    # pretrained=True starts from published weights; for a ViT: ti_vit_tiny_patch16_224, and in_channels=192 below
    backbone=dict(type="TIMMBackbone", model_name="ti_resnet18", features_only=True, out_indices=(-1,)),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=2, in_channels=512, loss=dict(type="CrossEntropyLoss"), topk=(1,)),
)
data_preprocessor = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True, num_classes=2)


def _loader(split, train):
    return dict(
        batch_size=8,
        num_workers=0,
        persistent_workers=False,
        sampler=dict(type="DefaultSampler", shuffle=train),
        dataset=dict(
            type="CustomDataset",
            data_root=f"hands/{split}",
            pipeline=[dict(type="LoadImageFromFile"), dict(type="Resize", scale=(224, 224)), dict(type="PackInputs")],
        ),
    )


train_dataloader = _loader("train", train=True)
val_dataloader = _loader("val", train=False)
val_evaluator = dict(type="Accuracy", topk=(1,))
optim_wrapper = dict(optimizer=dict(type="AdamW", lr=3e-4))
train_cfg = dict(by_epoch=False, max_iters=4, val_interval=4)
val_cfg = dict()
default_hooks = dict(
    logger=dict(type="LoggerHook", interval=1),
    checkpoint=dict(type="CheckpointHook", interval=4, by_epoch=False),
)
randomness = dict(seed=0)
del _loader
