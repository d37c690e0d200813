"""What a training step on a GPU should take, term by term; roofline.py prints it."""
