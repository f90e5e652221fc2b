"""Every key once. Other configs start from this one and set the lines that differ.

Keys with a value for each recipe take the one of `--config.recipe`, until they are set themselves. `rded` is RDED's
code, `infoutil` that with AutoAugment, `modern` what later papers agree on: docs/recipes.md.
"""

from collections import namedtuple

from ml_collections import ConfigDict, FieldReference

Operation = namedtuple("Operation", "fn args")  # the form that a FieldReference wants


def follow(rule, *keys):
    """rule(*values of `keys`), references to keys of a config, as a value that follows them until it is set itself."""
    return FieldReference(rule(*(key.get() for key in keys)), op=Operation(lambda _, *values: rule(*values), keys))


def by_recipe(c, **values):
    """One of `values`, by the recipe, rded's where it has none: by_recipe(c, rded=300, modern=1000)."""
    return follow(lambda recipe: values.get(recipe, values["rded"]), c.get_ref("recipe"))


def recipe_and_ipc(c):
    return c.get_ref("recipe"), c.get_ref("ipc")


def modern_batch(ipc):
    """RD3's 50 (ICLR 2026: alone worth 10 points on ImageNet-1K), and 20 where images are few."""
    return 50 if ipc > 1 else 20


def get_config():
    c = ConfigDict()
    c.name = "run"  # start of the name of a new workdir
    c.seed = 0  # all draws of distillation; student i of `evaluate.seeds` uses seed + i
    c.ipc = 10  # distilled images per class
    c.recipe = "rded"  # how students are trained: rded | infoutil | modern; gives some keys of `evaluate` their values
    c.candidates = 300  # real images a class may choose from (a random choice of them; fewer where it has fewer)
    # the first fills distilled/, the others are its controls:
    # infoutil | random_images (whole) | random_mosaics (2x2 of whole) | random_crops (same window, anywhere) | rded
    # | easy_images (whole, of the lowest loss) | herding | k_means | forgetting (coresets of whole images)
    c.methods = ("infoutil", "random_images", "random_crops", "rded")

    c.data = ConfigDict()
    c.data.source = "digits"  # digits | digits_in_photos | tfds | folder
    c.data.name = ""  # tfds: 'cifar10', 'cifar10:3.0.2'
    c.data.path = ""  # folder: root of SPLIT/CLASS/*, both splits; tfds: data_dir ('' = TFDS's own)
    c.data.train_split = "train"
    c.data.val_split = "test"  # folder: usually 'val'
    c.data.image_size = 32  # pixels; images are resized and centre-cropped unless they fit already
    c.data.crop_share = 0.0  # image_size / shorter side after the resize (timm's crop_pct); 0 = RDED's size // 7 * 8
    c.data.interpolation = "bilinear"  # bilinear | bicubic
    c.data.mean = (0.485, 0.456, 0.406)  # ImageNet's, as RDED uses for every data set
    c.data.std = (0.229, 0.224, 0.225)
    c.data.flip = True  # whether a mirrored image is still of its class
    c.data.exif = False  # apply EXIF rotation (torchvision does not)
    c.data.max_megapixels = 64.0  # larger images are refused before they are decoded
    c.data.strict = False  # an unreadable image stops the run instead of being left out and counted
    c.data.cache_gib = 4.0  # decoded images kept in memory, per split

    c.teacher = ConfigDict()
    c.teacher.model = "convnet3"
    c.teacher.width = 0  # channels of a ConvNet; 0 = 128
    c.teacher.epochs = 20
    c.teacher.early_epoch = 10  # the early teacher: the same training after this many epochs
    c.teacher.early_learning_rate = 0.0  # or, with another rate than 0, a training of its own, of this peak and length
    c.teacher.batch_size = 64
    c.teacher.optimizer = "sgd"  # sgd (Nesterov 0.9) | adamw
    c.teacher.learning_rate = 0.05  # peak, after a linear warm-up; cosine to 0
    c.teacher.warmup_epochs = 1.0
    c.teacher.weight_decay = 5e-4  # on kernels only
    c.teacher.augment = "pad_crop"  # none | pad_crop (4 px) | random_resized_crop; mirrored too where data.flip
    c.teacher.data_parallel = False  # spread batches over all devices; their number then changes last bits
    c.teacher.checkpoint_epochs = 1  # an interrupted training goes on from the last multiple of this
    c.teacher.min_times_chance = 2.0  # refuse a teacher below this multiple of chance
    c.teacher.weights = ""  # a .safetensors file instead of training, docs/teachers.md; its own mean, std, resize hold
    c.teacher.weights_sha256 = ""  # refuse a file with another SHA-256; '' = the run prints the line to set
    c.teacher.weights_top1 = 0.0  # accuracy the weights are known for, in [0, 1]; 0 = the file's own record, or unknown
    c.teacher.weights_tolerance = 0.02  # refuse weights that are further from it on the validation split
    c.teacher.early_weights = ""  # of the early teacher; '' = the same weights
    c.teacher.early_weights_sha256 = ""

    c.attribute = ConfigDict()
    c.attribute.grid = 4  # G: players are the cells of a G x G grid
    c.attribute.baseline = "zero"  # absent patches: zero in normalised space | mean_colour of the image | blur
    c.attribute.value = "logit"  # v(S): logit | probability of the target class
    c.attribute.target = "label"  # label | predicted
    c.attribute.estimator = "odd_gp"  # odd_gp | leverage_shap | kernel_shap (Captum's) | permutation | exact | grad_cam
    c.attribute.budget = 128  # teacher evaluations per image, empty and full coalition included; 2**(G*G) is exact
    c.attribute.precision = "float32"  # float32 | bfloat16, of the forward passes
    c.attribute.micro_batch = 0  # masked images per forward pass and device; 0 = 16 on a CPU, else by the memory

    c.crop = ConfigDict()
    c.crop.rule = "shapley"  # shapley | random_window | random_resized | whole
    c.crop.window = 2  # window's side in grid cells = kernel of the average pooling: 2 of 4 is the paper's half side
    c.crop.per_image = 5  # R; the last one without noise
    c.crop.alpha = 2.0  # noise in standard deviations of the pooled map

    c.score = ConfigDict()
    c.score.teacher = "converged"  # converged | early
    c.score.fit = "resize"  # a crop smaller than the network's input: resize | pad (on a zero canvas, as RDED's code)
    c.score.norms = "layerwise"  # layerwise | vmap (the same numbers from all gradients at once, slower)
    c.score.batch_size = 16  # crops per call and device

    c.select = ConfigDict()
    # largest_ | smallest_ | middle_gradient_norm | largest_correct | lowest_loss | random
    # | herding | k_means | forgetting (coresets, of whole images: see the methods)
    c.select.rule = "largest_gradient_norm"
    c.select.pool = "all"  # all crops compete | best_per_image
    c.select.duplicates = True  # whether the same box of the same image may be kept twice

    c.compose = ConfigDict()
    c.compose.factor = 2  # F: images are F x F mosaics
    c.compose.order = "consecutive"  # consecutive ranks share an image (Algorithm 1) | rank_blocks (RDED's code)

    c.label = ConfigDict()
    c.label.teacher = "early"  # early | converged

    c.evaluate = ConfigDict()
    c.evaluate.model = c.teacher.get_oneway_ref("model")  # follows the teacher's until it is set itself
    width = lambda teacher, student, width: width if teacher == student else 0  # another network has its own
    models = c.teacher.get_ref("model"), c.evaluate.get_ref("model")
    c.evaluate.width = follow(width, *models, c.teacher.get_ref("width"))
    c.evaluate.epochs = 300
    # 0 = RDED's: 10 at IPC 1, 50 at IPC 10, 100 at IPC 50, twice that from 100 classes on
    # modern: small batches, so many steps
    c.evaluate.batch_size = follow(lambda r, ipc: modern_batch(ipc) if r == "modern" else 0, *recipe_and_ipc(c))
    c.evaluate.learning_rate = 1e-3
    c.evaluate.schedule = by_recipe(c, rded="half_cosine", modern="ssrs")  # or cosine; ssrs: half_cosine, a line to 0
    c.evaluate.weight_decay = 0.01  # on kernels only
    c.evaluate.ema = by_recipe(c, rded=0.0, modern=0.99)  # decay of the averaged weights that are tested
    c.evaluate.loss = by_recipe(c, rded="kl", modern="mse")  # kl: of softened probabilities; mse: of logits
    c.evaluate.temperature = 20.0
    c.evaluate.class_weight = by_recipe(c, rded=0.0, modern=0.025)  # of an added cross-entropy with the classes
    c.evaluate.labels = "online"  # online (teacher on the mixed batch) | stored (the set's patch logits) | hard
    c.evaluate.cutmix = True
    c.evaluate.min_scale = by_recipe(c, rded=0.0, modern=0.25)  # least area of a view; 0 = RDED's 1 / compose.factor
    # share of views that show one cell of a zoom_grid x zoom_grid partition at full size; modern: 1 - 1 / F^2
    zoom = lambda recipe, factor: 1 - 1 / factor**2 if recipe == "modern" else 0.0
    c.evaluate.zoom = follow(zoom, c.get_ref("recipe"), c.compose.get_ref("factor"))
    zoom_grid = lambda recipe, factor: factor if recipe == "modern" else 2
    c.evaluate.zoom_grid = follow(zoom_grid, c.get_ref("recipe"), c.compose.get_ref("factor"))
    c.evaluate.shuffle = True  # RDED's ShufflePatches on mosaics
    # of each view: none | autoaugment_cifar10 | autoaugment_imagenet | randaugment
    c.evaluate.augment = by_recipe(c, rded="none", infoutil="autoaugment_imagenet", modern="randaugment")
    c.evaluate.bn_momentum = by_recipe(c, rded=0.81, modern=0.9)  # RDED updates running statistics twice a step
    c.evaluate.test_every = 10  # epochs between tests in the last fifth of training
    c.evaluate.seeds = 3
    c.evaluate.hard_seeds = 3  # students of the hard-label column
    return c.lock()  # a key that is not here is refused, with its line
