"""The detectors of transformers, a table entry each: how to call it, where its queries, maps and stem are.

All that differs between them stands here: a new family is one more entry. `register_detector` adds one at run time.
"""

from mask_frozen_detr.detectors.family import (
    Family,
    Maps,
    Tokens,
    detection_tokens,
    in_decoder_order,
    quadrilaterals,
)

FAMILIES: dict[str, Family] = {}


def register_detector(family: Family) -> None:
    """Make `load_detector` know one more model type, or read a known one in another way.

    Detectors of a family whose class and `read` are found by their names can be pickled. The taps are part of a
    detector's identity: runs that were trained on others do not load. Example, for a fork of RT-DETR of your own:

        register_detector(
            Family(
                "my_detr",
                MyDetrForObjectDetection,
                features=Maps("model.encoder"),
                stems={"resnet": "model.backbone.model.encoder.stages.0"},
                detections="num_queries",
            )
        )
    """
    FAMILIES[family.model_type] = family


def _stems(backbone: str, timm: str = "layer1") -> dict[str, str]:
    """C₁ of the backbone at that path, whichever it is: the output of its first stage."""
    paths = {
        "resnet": "encoder.stages.0",
        "rt_detr_resnet": "encoder.stages.0",
        "hgnet_v2": "encoder.stages.0",
        "swin": "swin.encoder.layers.0",
        "timm_backbone": timm,
    }
    return {kind: f"{backbone}.{path}" for kind, path in paths.items()}


_ENCODER = Tokens("model.encoder.layers", "model.input_projection")
_HYBRID = Maps("model.encoder")
_PROJECTOR = Maps("model.backbone.projector")
_DETR, _WRAPPED = _stems("model.backbone.model"), _stems("model.backbone.conv_encoder.model")
_RT_DETR = _stems("model.backbone.model", timm="_backbone.layer1")

for _family in (
    Family(
        "detr",
        "DetrForObjectDetection",
        _ENCODER,
        _DETR,
        background=True,
        detections="num_queries",
        takes_mask=True,
        strides="32",
        example="facebook/detr-resnet-50",
    ),
    Family(
        "table-transformer",
        "TableTransformerForObjectDetection",
        _ENCODER,
        _WRAPPED,
        background=True,
        detections="num_queries",
        takes_mask=True,
        strides="32",
        example="microsoft/table-transformer-detection",
    ),
    Family(
        "conditional_detr",
        "ConditionalDetrForObjectDetection",
        _ENCODER,
        _DETR,
        takes_mask=True,
        strides="32",
        example="microsoft/conditional-detr-resnet-50",
    ),
    Family(
        "dab-detr",
        "DabDetrForObjectDetection",
        _ENCODER,
        _stems("model.backbone.conv_encoder.model", timm="_backbone.layer1"),
        takes_mask=True,
        strides="32",
        example="IDEA-Research/dab-detr-resnet-50",
    ),
    Family(
        "deformable_detr",
        "DeformableDetrForObjectDetection",
        Tokens("model.encoder.layers", "model.input_proj"),
        _DETR,
        takes_mask=True,
        strides="8 to 64",
        example="SenseTime/deformable-detr",
    ),
    Family(
        "rt_detr",
        "RTDetrForObjectDetection",
        _HYBRID,
        _RT_DETR,
        detections="num_queries",
        cost_prefix="matcher_",
        strides="8 to 32",
        example="PekingU/rtdetr_r50vd",
        backbone="model.backbone.model",
    ),
    Family(
        "rt_detr_v2",
        "RTDetrV2ForObjectDetection",
        _HYBRID,
        _RT_DETR,
        detections="num_queries",
        cost_prefix="matcher_",
        strides="8 to 32",
        example="PekingU/rtdetr_v2_r18vd",
        backbone="model.backbone.model",
    ),
    Family(
        "d_fine",
        "DFineForObjectDetection",
        _HYBRID,
        _RT_DETR,
        detections="num_queries",
        cost_prefix="matcher_",
        strides="8 to 32 (nano: 16, 32)",
        example="ustc-community/dfine-xlarge-coco",
        backbone="model.backbone.model",
    ),
    Family(
        "deimv2",
        "Deimv2ForObjectDetection",
        _HYBRID,
        {
            **_stems("model.conv_encoder.model"),
            "dinov3_vit": "model.conv_encoder.spatial_tuning_adapter.stem_pool",  # the convolutions beside the ViT
        },
        detections="num_queries",
        cost_prefix="matcher_",
        strides="8 to 32 (atto to nano: 16, 32)",
        example="Intellindust/DEIMv2_HGNetv2_N_COCO",
        backbone="model.conv_encoder.model",
    ),
    Family(
        "lw_detr",
        "LwDetrForObjectDetection",
        _PROJECTOR,
        {"lw_detr_vit": "model.backbone.backbone"},
        any_size=False,
        strides="16, or 8 and 32",
        stem_stride="16",
        example="AnnaZhang/lwdetr_small_60e_coco",
    ),
    Family(
        "rf_detr",
        "RfDetrForObjectDetection",
        _PROJECTOR,
        {"rf_detr_dinov2": "model.backbone.backbone"},
        detections="num_queries",
        any_size=False,
        strides="12 to 16",
        stem_stride="12 to 16",
        example="Roboflow/rf-detr-base",
    ),
    Family(
        "grounding-dino",
        "GroundingDinoForObjectDetection",
        Tokens("model.encoder.layers", "model.input_proj_vision"),
        _WRAPPED,
        detections="num_queries",
        takes_mask=True,
        prompted=True,
        strides="8 to 64",
        example="IDEA-Research/grounding-dino-tiny",
    ),
    Family(
        "mm-grounding-dino",
        "MMGroundingDinoForObjectDetection",
        Tokens("model.encoder.layers", "model.input_proj_vision"),
        _WRAPPED,
        detections="num_queries",
        takes_mask=True,
        prompted=True,
        strides="8 to 64",
        example="openmmlab-community/mm_grounding_dino_tiny_o365v1_goldg_v3det",
    ),
    Family(
        "yolos",
        "YolosForObjectDetection",
        Tokens("vit.layernorm", "vit.embeddings.patch_embeddings.projection", skip=1),
        {"yolos": "vit.embeddings.patch_embeddings.projection"},
        detection_tokens,
        background=True,
        detections="num_detection_tokens",
        any_size=False,
        strides="16",
        stem_stride="16",
        example="hustvl/yolos-base",
    ),
    Family(
        "pp_doclayout_v2",
        "PPDocLayoutV2ForObjectDetection",
        _HYBRID,
        _RT_DETR,
        in_decoder_order,
        detections="num_queries",
        cost_prefix=None,
        has_loss=False,
        strides="8 to 32",
        example="PaddlePaddle/PP-DocLayoutV2_safetensors",
        backbone="model.backbone.model",
    ),
    Family(
        "pp_doclayout_v3",
        "PPDocLayoutV3ForObjectDetection",
        _HYBRID,
        _RT_DETR,
        detections="num_queries",
        cost_prefix=None,
        has_loss=False,
        strides="8 to 32",
        example="PaddlePaddle/PP-DocLayoutV3_safetensors",
        backbone="model.backbone.model",
    ),
    Family(
        "pp_doclayout_v4",
        "PPDocLayoutV4ForObjectDetection",
        _HYBRID,
        _RT_DETR,
        quadrilaterals,
        detections="num_queries",
        cost_prefix=None,
        has_loss=False,
        strides="8 to 32",
        since="5.20",
        example="PaddlePaddle/PP-DocLayoutV4_safetensors",
        backbone="model.backbone.model",
    ),
):
    register_detector(_family)
