"""The captioned digits: text to image on two CPU cores.

scikit-learn's digits in six colours, in one or both cells of a canvas of 8 x 16 pixels, with captions such as "a red
three left of a green seven". A judge reads digit, colour and place back, as GenEval does for photographs.
"""
