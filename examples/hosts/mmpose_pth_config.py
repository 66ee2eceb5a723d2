# ruff: noqa: C408 (mmengine configs are written with dict)
"""mmpose: its own FreiHAND config and its own ResNet, which starts from the weights of a TI ResNet.

ti-backbones export runs/ti_resnet50 --to pth --out ti_resnet50.pth
mim train mmpose mmpose_pth_config.py     with data/freihand as mmpose's documentation lays it out; mmpose does not
need this package for it: timm's keys of a ResNet are torchvision's, and so are mmpose's
"""

_base_ = "mmpose::hand_2d_keypoint/topdown_heatmap/freihand2d/td-hm_res50_8xb64-100e_freihand2d-224x224.py"

model = dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="ti_resnet50.pth")))
