# ruff: noqa: C408 (mmengine configs are written with dict)
"""mmpose: its own FreiHAND config with a ti_* backbone, which mmpretrain's TIMMBackbone builds.

mim train mmpose mmpose_config.py     with data/freihand as mmpose's documentation lays it out
"""

_base_ = "mmpose::hand_2d_keypoint/topdown_heatmap/freihand2d/td-hm_res50_8xb64-100e_freihand2d-224x224.py"
custom_imports = dict(imports=["mmpretrain.models", "ti_backbones"])

model = dict(
    backbone=dict(
        _delete_=True,
        type="mmpretrain.TIMMBackbone",
        model_name="ti_resnet18",  # pretrained=True starts from published weights
        features_only=True,
        out_indices=(-1,),
    ),
    head=dict(in_channels=512),
)
