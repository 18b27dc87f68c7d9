"""The page of task=explore. `opened` holds the models, `views` and `history` make what is seen, `page` is the page itself, tab by
tab; only `page` knows Gradio."""

import os

os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # Gradio reads it when it is imported
