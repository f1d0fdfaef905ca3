"""The page a run ends with."""

from callbacks.report.distillation import write_distillation_report
from callbacks.report.page import Answer, Card, Example, Section, Table, write_page

__all__ = ["Answer", "Card", "Example", "Section", "Table", "write_distillation_report", "write_page"]
