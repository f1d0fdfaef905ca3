"""RAST (arXiv 2310.14503): question generation by retrieved style templates, with a policy and a retriever."""
