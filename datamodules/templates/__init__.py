"""Templates of questions: how they are made, kept in a bank, compared, clustered and disturbed.

A template is a question whose content is masked: "Who founded the Almanac in 1873?" gives
"Who founded [MASK] in [MASK] ?". Question generation by style transfer puts the content of another passage into it.
"""

from datamodules.templates.bank import BankTemplate, TemplateBank
from datamodules.templates.clusters import clusters
from datamodules.templates.extraction import Extracted, TemplateExtractor, template_maker
from datamodules.templates.noise import Noise, noised_templates
from datamodules.templates.opening import bank_of_examples, build_bank, open_bank
from datamodules.templates.words import MASK, template_words, word_jaccard

__all__ = [
    "MASK",
    "BankTemplate",
    "Extracted",
    "Noise",
    "TemplateBank",
    "TemplateExtractor",
    "bank_of_examples",
    "build_bank",
    "clusters",
    "noised_templates",
    "open_bank",
    "template_maker",
    "template_words",
    "word_jaccard",
]
